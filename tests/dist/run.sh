#!/usr/bin/env bash
# The archive of `cargo xtask dist` in a bare Debian 11, which has the oldest C library that it is for: the quickstart is written and
# checked, a small pipeline runs, a server answers. Exit code 75: there is no debootstrap, or its mirror cannot be reached.
# Usage: tests/dist/run.sh [ARCHIVE]. The root of Debian is kept outside of the clone.
set -euo pipefail
cd "$(dirname "$0")/../.."
base="${PARALOOM_DEBIAN:-$HOME/.cache/paraloom/bullseye}"
archive="${1:-}"
command -v debootstrap >/dev/null || { echo "there is no debootstrap" >&2; exit 75; }
if [ ! -e "$base/etc/debian_version" ]; then
  mkdir -p "$(dirname "$base")"
  timeout 900 debootstrap --variant=minbase bullseye "$base.new" http://deb.debian.org/debian >&2 || { rm -rf "$base.new"; exit 75; }
  mv "$base.new" "$base"
fi
if [ -z "$archive" ]; then
  cargo xtask dist
  archive="$(ls "${CARGO_TARGET_DIR:-target}"/archive/paraloom-*.tar.gz)"
fi

work="$(mktemp -d "$base/tmp/paraloom.XXXXXX")"
trap 'rm -rf "$work"' EXIT
tar -xzf "$archive" -C "$work" --strip-components 1
cat >"$work/p.yaml" <<'YAML'
paraloom: 1
nodes:
  texts: { stage: load, with: { from: texts.csv } }
  blank: { stage: model, inputs: { texts: [texts] }, with: { new: { vocabulary: 120, d_model: 16, d_ff: 32, layers: 1, heads: 2 } } }
  written: { stage: generate, inputs: { model: blank, rows: texts }, with: { source: text, max_new_tokens: 4 } }
YAML
printf '%s\n' text "sales rose 20 percent" "costs fell 3 percent" "demand fell" "margin rose" >"$work/texts.csv"
cat >"$work/in.sh" <<'SH'
set -eu
cd "$1"
paraloom="$PWD/bin/paraloom"
"$paraloom" init quickstart --template quickstart
"$paraloom" check quickstart/pipeline.yaml
"$paraloom" run p.yaml
[ "$("$paraloom" show p.yaml written --json | wc -l)" = 4 ]
"$paraloom" serve p.yaml written --bind 127.0.0.1:0 --log off 2>serve.log &
for _ in $(seq 100); do grep -q " at http" serve.log && break; sleep 0.1; done
grep " at http" serve.log
kill $!
wait $!
SH
timeout 120 chroot "$base" /bin/sh "/${work#"$base"/}/in.sh" "/${work#"$base"/}"
echo "the archive works in Debian $(cat "$base/etc/debian_version")"
