#!/bin/sh
# The README's picture: the top of a report, 1280 pixels wide, drawn by headless Chromium (Debian: chromium).
# usage: docs/picture.sh REPORT.html [PICTURE.png]     a report: sharelm report quickstart --out FOLDER
set -eu
page=$(realpath "$1")
picture=$(realpath "${2:-docs/report.png}")
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
chromium --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
  --disable-component-update --disable-sync --host-resolver-rules='MAP * ~NOTFOUND' --hide-scrollbars \
  --user-data-dir="$profile" --window-size=1280,1240 --screenshot="$picture" "file://$page" 2>/dev/null
echo "$picture: $(wc -c <"$picture") bytes"
