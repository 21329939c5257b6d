#!/usr/bin/env bash
# The tests that need an object store, against moto's S3 server, against Azurite where npm has it, and against Google's storage-testbench
# where GitHub has it (PARALOOM_GOOGLE_TESTBENCH names a copy). All are installed outside of the clone. (s3s-fs, which is faster than moto,
# lets several writers win where one may; the emulators of Google's storage that PyPI has, fake-gcs-server and gcp-storage-emulator, know
# no conditional writes.) Exit code 75: moto is not at hand, and PyPI cannot be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="$(tests/python.sh moto 'moto[server]')"

free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true' EXIT

azurite="${PARALOOM_AZURITE_TOOLS:-$HOME/.cache/paraloom/azurite}"
if command -v npm >/dev/null && [ ! -e "$azurite/node_modules/.bin/azurite-blob" ]; then
  mkdir -p "$azurite"
  [ -e "$azurite/package.json" ] || echo '{"private": true}' >"$azurite/package.json"
  (cd "$azurite" && timeout 180 npm install --no-audit --no-fund --loglevel error azurite@3 >&2) || true
fi
if [ -e "$azurite/node_modules/.bin/azurite-blob" ]; then
  port="$(free_port)"
  "$azurite/node_modules/.bin/azurite-blob" --silent --inMemoryPersistence --disableTelemetry --skipApiVersionCheck --blobPort "$port" >/dev/null &
  servers+=($!)
  PARALOOM_AZURITE="http://127.0.0.1:$port"
  "$python" tests/bucket/azure.py "$PARALOOM_AZURITE" bucket
  export PARALOOM_AZURITE
else
  echo "without Azurite, which cannot be installed"
fi

testbench="${PARALOOM_GOOGLE_TESTBENCH:-git+https://github.com/googleapis/storage-testbench@e8c85072463f1f8378d850db457df598fdcb17a7}"
if google="$(timeout 180 tests/python.sh google-testbench "googleapis-storage-testbench @ $testbench" 2>/dev/null)"; then
  port="$(free_port)"
  "$google" tests/bucket/google_storage.py "$port" bucket >/dev/null 2>&1 &
  servers+=($!)
  export PARALOOM_GOOGLE="http://127.0.0.1:$port"
  timeout 60 sh -c "until curl --silent --fail '$PARALOOM_GOOGLE/bucket' >/dev/null; do sleep 0.2; done"
else
  echo "without Google's testbench, which cannot be installed"
fi
PARALOOM_MOTO="$(dirname "$python")/moto_server" cargo test --release --test it workers::
