#!/usr/bin/env bash
# A real S3 server on loopback for tests and trials: a Ceph RADOS gateway from Debian's packages, unpacked into a
# folder. Nothing is installed and no root is needed. See README.md beside this file.
#
#   server.sh start DIR [PORT]   unpack on first use, start, print `export` lines for the shell
#   server.sh stop DIR           end its three processes; the objects, which live in memory, go with them
#
# Exit codes: 0 done, 1 the server did not start, 2 wrong use, 3 this machine cannot get the Debian packages.
set -euo pipefail

access_key=sharelm-access secret_key=sharelm-secret bucket=sharelm default_port=28400
daemons="rgw osd mon" # in the order in which they are ended

say() { echo "local-s3: $1" >&2; }
fail() { say "$2"; exit "$1"; }
usage() { fail 2 "use: server.sh start DIR [PORT] | server.sh stop DIR"; }

alive() { [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; }

stop() {
  for name in $daemons; do
    if alive "$name"; then
      kill "$(cat "$dir/$name.pid")" 2>/dev/null || true
      for _ in $(seq 50); do alive "$name" || break; sleep 0.1; done
      if alive "$name"; then kill -9 "$(cat "$dir/$name.pid")" 2>/dev/null || true; fi
    fi
    rm -f "$dir/$name.pid"
  done
}

# Download what apt would install for a gateway and this machine does not have; needs no root.
download() {
  mkdir -p "$1/partial"
  apt-get install --download-only -qq -y --no-install-recommends -o Debug::NoLocking=1 -o APT::Sandbox::User="" \
    -o Dir::Cache::archives="$1" radosgw ceph-mon ceph-osd ceph-common > "$1/apt.out" 2>&1
}

unpack() {
  for tool in apt-get dpkg curl; do
    command -v $tool > /dev/null || fail 3 "no $tool here, so Debian's Ceph packages are not to be had"
  done
  say "unpacking Ceph into $root (about 70 MB to download, once)"
  rm -rf "$root" "$dir/debs"
  download "$dir/debs" || fail 3 "Debian's Ceph packages are not to be had here: $(tail -1 "$dir/debs/apt.out")"
  mkdir -p "$root"
  for deb in "$dir"/debs/*.deb; do
    dpkg -x "$deb" "$root"
  done
  rm -rf "$dir/debs"
}

# Settings under which the unpacked programs find each other instead of a system's own.
use_root() {
  libraries=$(echo "$root"/usr/lib/*-linux-gnu)
  export LD_LIBRARY_PATH="$libraries:$(echo "$root"/lib/*-linux-gnu):$libraries/ceph"
  export PATH="$root/usr/bin:$root/usr/sbin:$root/bin:$root/sbin:$PATH"
  export PYTHONPATH="$root/usr/lib/python3/dist-packages" CEPH_CONF="$dir/ceph.conf"
}

configure() {
  cat > "$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = 127.0.0.1:$((port + 1))
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms client mode = crc
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
run dir = $run
admin socket = $run/\$name.asok
pid file = $run/\$name.pid
log file = $run/\$name.log
crash dir = $run
plugin dir = $libraries/ceph
erasure code dir = $libraries/ceph/erasure-code
osd class dir = $libraries/rados-classes
osd max object name len = 460
[mon]
mon data = $run/mon
mon data avail crit = 1
[osd]
osd data = $run/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd memory target = 939524096
[client]
rgw frontends = beast endpoint=127.0.0.1:$port
rgw thread pool size = 32
rgw dns name = 127.0.0.1
rgw enable usage log = false
CONF
}

launch() { # NAME COMMAND...: a daemon that outlives this shell
  local name=$1
  shift
  setsid nohup "$@" -f > "$run/$name.out" 2>&1 < /dev/null &
  echo $! > "$dir/$name.pid"
}

tell_ceph() { timeout 20 /usr/bin/python3 "$root/usr/bin/ceph" "$@" >> "$run/ceph.out" 2>&1; }
answers() { curl -s -o /dev/null -m 2 --noproxy '*' "http://127.0.0.1:$port/"; }

until_done() { # TRIES COMMAND...
  local tries=$1
  shift
  for _ in $(seq "$tries"); do "$@" && return 0; sleep 0.3; done
  return 1
}

start() {
  if answers; then fail 1 "port $port is taken by another program; give a PORT"; fi
  [ -f "$root/complete" ] || unpack
  use_root
  radosgw --version > /dev/null 2>&1 && ceph-mon --version > /dev/null 2>&1 && ceph-osd --version > /dev/null 2>&1 ||
    fail 3 "the unpacked Ceph does not run here: $(radosgw --version 2>&1 | head -1)"
  touch "$root/complete"

  run=$dir/run
  rm -rf "$run"
  mkdir -p "$run/mon" "$run/osd"
  fsid=$(cat /proc/sys/kernel/random/uuid)
  configure

  monmaptool --create --clobber --fsid "$fsid" --add a "127.0.0.1:$((port + 1))" "$run/monmap" > "$run/setup.out"
  ceph-authtool --create-keyring "$run/keyring" --gen-key -n mon. --cap mon 'allow *' >> "$run/setup.out"
  ceph-mon --mkfs -i a --monmap "$run/monmap" --keyring "$run/keyring" >> "$run/setup.out" 2>&1
  launch mon ceph-mon -i a

  osd=$(cat /proc/sys/kernel/random/uuid)
  ceph-osd -i 0 --mkfs --osd-uuid "$osd" --no-mon-config >> "$run/setup.out" 2>&1
  until_done 30 tell_ceph osd new "$osd" || fail 1 "the monitor does not answer; see $run"
  tell_ceph osd crush add osd.0 1.0 host=localhost root=default
  launch osd ceph-osd -i 0
  launch rgw radosgw -n client.rgw
  until_done 200 answers || fail 1 "the gateway does not answer on port $port; see $run"

  timeout 60 radosgw-admin user create --uid=sharelm --display-name=sharelm \
    --access-key=$access_key --secret-key=$secret_key >> "$run/setup.out" 2>&1 || fail 1 "no user was made; see $run"
  make_bucket() {
    curl -s -f -o /dev/null -m 20 --noproxy '*' -X PUT -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
      --aws-sigv4 aws:amz:us-east-1:s3 --user $access_key:$secret_key "http://127.0.0.1:$port/$bucket"
  }
  until_done 10 make_bucket || fail 1 "no bucket was made; see $run"
  echo "$port" > "$dir/port"
}

settings() {
  cat <<EXPORTS
export AWS_ENDPOINT_URL=http://127.0.0.1:$1 AWS_DEFAULT_REGION=us-east-1
export AWS_ACCESS_KEY_ID=$access_key AWS_SECRET_ACCESS_KEY=$secret_key
export AWS_REQUEST_CHECKSUM_CALCULATION=when_required
export SHARELM_TEST_S3=s3://$bucket
EXPORTS
}

[ $# -ge 2 ] || usage
mkdir -p "$2"
dir=$(cd "$2" && pwd) port=${3:-$default_port}
root=$dir/root
case $1 in
  start)
    if alive rgw && alive osd && alive mon; then
      say "already running in $dir"
    else
      stop
      trap 'code=$?; [ $code = 0 ] || stop' EXIT
      start
    fi
    settings "$(cat "$dir/port")"
    ;;
  stop) stop ;;
  *) usage ;;
esac
