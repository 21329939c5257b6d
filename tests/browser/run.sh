#!/usr/bin/env bash
# The report and the page of `serve` as a browser shows them: pictures in two widths, light, dark and printed, with hostile
# content, and what must hold of each (look.mjs). Playwright and axe come from npm, Chromium from Debian, all outside of the clone.
# Exit code 75: they cannot be had. Usage: tests/browser/run.sh [DIRECTORY FOR THE PICTURES]
set -euo pipefail
cd "$(dirname "$0")/../.."
tools="${PARALOOM_BROWSER:-$HOME/.cache/paraloom/browser}"
for program in node npm; do
  command -v "$program" >/dev/null || { echo "there is no $program" >&2; exit 75; }
done
if ! ls "$tools"/node_modules/{playwright-core,axe-core}/package.json >/dev/null 2>&1; then
  mkdir -p "$tools"
  [ -e "$tools/package.json" ] || echo '{"private": true}' >"$tools/package.json"
  PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 timeout 120 npm install --prefix "$tools" --no-audit --no-fund --loglevel error \
    playwright-core@1 axe-core@4 >&2 || exit 75
fi
if ! command -v chromium >/dev/null; then
  { apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core; } >&2 || exit 75
fi

work="$(mktemp -d)"
# Serves a node with options, and sets `address`.
serve() {
  local log="$work/serve-${#serving[@]}.log"
  "$paraloom" serve "$work/pipeline.yaml" "$@" --bind 127.0.0.1:0 2>"$log" &
  serving+=($!)
  for _ in $(seq 100); do
    address="$(sed -n 's/.* at \(http:[^ ]*\)$/\1/p' "$log")"
    [ -z "$address" ] || return 0
    kill -0 "${serving[-1]}" 2>/dev/null || break
    sleep 0.2
  done
  cat "$log" >&2
  return 1
}
pictures="${1:-$work/pictures}"
mkdir -p "$pictures"
serving=()
trap '[ ${#serving[@]} = 0 ] || kill "${serving[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT
cargo build --release
paraloom="${CARGO_TARGET_DIR:-target}/release/paraloom"

# A small run of real stages: some rows of the corpus, some as nobody wants them, and a model that learns a little.
cp tests/browser/*.yaml tests/browser/hostile.csv "$work"
cp -r pipelines/quickstart-base "$work/base"
{ cat "$work/hostile.csv"; sed -n 2,61p pipelines/corpus/business.csv; } >"$work/corpus.csv"
head -n 400 pipelines/corpus/paraphrases.tsv >"$work/pairs.tsv"
status=0
"$paraloom" run "$work/pipeline.yaml" --set noise=0.9 >"$work/run.log" 2>&1 || true
earlier="$("$paraloom" runs --store "$work/.paraloom" | awk 'NR == 1 { print $1 }')"
"$paraloom" run "$work/pipeline.yaml" >>"$work/run.log" 2>&1 || status=$?
# 4: an expectation is not met, which the report has to say.
[ "$status" = 4 ] || { cat "$work/run.log" >&2; exit 1; }
"$paraloom" report "$work/pipeline.yaml" --against "$earlier" --to "$work/report.html"

serve qualified
one="$address"
serve qualified --model base,t5p,custom

PARALOOM_BROWSER="$tools" timeout 240 node tests/browser/look.mjs "$pictures" "$work/report.html" "$one/" "$address/"
[ -z "${1:-}" ] || echo "the pictures are in $pictures"
