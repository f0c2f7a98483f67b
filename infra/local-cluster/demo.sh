#!/usr/bin/env bash
# `make cluster`: a whole cluster on loopback, and nights that find what is planted. See README.md beside this file.
#
# A real S3 server, a head that wants a token and two nodes of one CPU; the quickstart by `sharelm submit`; two usual
# nights; then two nights of a library that decodes five times slower and of a learning rate that is wrong. Everything
# that it starts is stopped at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=$PWD/.venv/bin
export PATH="$bin:$PATH"
folder=$(mktemp -d /tmp/slc-XXXXXX)
server=infra/local-s3/server.sh
started=() began=$(date +%s)
say() { echo "[$(($(date +%s) - began)) s] $1"; }

stop() {
  for pid in ${started[@]+"${started[@]}"}; do kill "$pid" 2> /dev/null || true; done
  wait
  "$server" stop "$folder/s3" > /dev/null 2>&1 || true
  rm -rf "$folder"
}
trap stop EXIT

say "starting the S3 server"
if settings=$("$server" start "$folder/s3" "${S3_PORT:-28480}" 2> "$folder/s3.log"); then
  eval "$settings"
  store=$SHARELM_TEST_S3/cluster
else
  [ $? = 3 ] || { cat "$folder/s3.log"; exit 1; }
  store=$folder/store
  say "no S3 server is to be had here ($(tail -1 "$folder/s3.log")): the store is a folder"
fi

say "starting a head and two nodes"
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$folder/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token RAY_worker_niceness=0 OMP_NUM_THREADS=1
head=127.0.0.1:${RAY_PORT:-28490} dashboard=${DASHBOARD_PORT:-28491}
ray start --head --node-ip-address=127.0.0.1 --port="${head#*:}" --dashboard-host=127.0.0.1 --dashboard-port="$dashboard" \
  --ray-client-server-port=28492 --num-cpus=0 --temp-dir="$folder/ray" --disable-usage-stats --block > "$folder/head.log" 2>&1 &
started+=($!)
address=http://127.0.0.1:$dashboard
# Wait until `ray status` says this; without it the cluster did not start.
until_status() {
  for _ in $(seq 180); do
    if ray status --address="$head" 2> /dev/null | grep -q "$1"; then return; fi
    sleep 0.5
  done
  tail -n 5 "$folder"/*.log
  say "the cluster did not start"
  exit 1
}
until_status "Node status"
for node in 1 2; do # one after another: nodes of one address that join at once may take each other's place
  ray start --address="$head" --node-ip-address=127.0.0.1 --num-cpus=1 --block > "$folder/node$node.log" 2>&1 &
  started+=($!)
  until_status "/$node.0 CPU"
done

say "the quickstart, submitted as a job"
sharelm submit examples/quickstart.toml --store "$store" --address "$address" --wait
sharelm verdict quickstart --store "$store" > "$folder/verdict"
grep -q "^Accuracy" "$folder/verdict"

# A night as a Ray job, as a cluster's CronJob runs it; `$3` names what is planted.
night() {
  say "night $1${3:+ with $3 planted}"
  plant=$([ -z "${3:-}" ] || echo "\"PYTHONPATH\": \"$PWD/infra/local-cluster/plant:$PWD\", \"SHARELM_PLANT\": \"$3\",")
  code=0
  ray job submit --address "$address" --runtime-env-json "{\"env_vars\": {$plant \"RAY_AUTH_MODE\": \"token\"}}" -- \
    "$bin/python" -m jobs.nightly --study "$PWD/infra/local-cluster/night.toml" --store "$store" --night "$1" \
    > "$folder/night-$1.log" 2>&1 || code=$?
  sed -n 's/^/    /; /Night \|worse since\|Changed since\|trends:/p' "$folder/night-$1.log"
  found=broken
  if [ $code = 0 ]; then found=well; elif grep -q "metrics \(is\|are\) worse" "$folder/night-$1.log"; then found=worse; fi
  [ $found = "$2" ] || { tail -30 "$folder/night-$1.log"; say "the night is $found, expected: $2"; exit 1; }
}

night 2026-01-01 well
night 2026-01-02 well
night 2026-01-03 worse slow,lossy
night 2026-01-04 worse slow,lossy
grep -q "Decoding time of .* is worse since 2026-01-03" "$folder/night-2026-01-04.log"
grep -q "Held-out loss of .* is worse since 2026-01-03" "$folder/night-2026-01-04.log"
say "both alarms were raised; stopping what was started"
