#!/usr/bin/env bash
# docs/serving/nginx.conf and Caddyfile before a server with a token, by curl. Exit code 75: the proxies cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
root="$PWD"
binary="$(realpath "${CARGO_TARGET_DIR:-target}/release/paraloom")"
for program in nginx caddy openssl curl; do
  PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || { apt-get update -q && apt-get install -y -q nginx-light caddy openssl curl; } >&2 || exit 75
done
PATH="$PATH:/usr/sbin"
folder="$(mktemp -d)"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait || true; rm -rf "$folder"' EXIT
cd "$folder"
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem -days 2 -subj /CN=localhost \
  -addext subjectAltName=DNS:localhost 2>/dev/null
printf 'text\nlong enough\n' >rows.csv
cat >p.yaml <<'YAML'
paraloom: 1
nodes:
  rows: { stage: load, with: { from: rows.csv } }
  loud: { stage: derive, inputs: { rows: rows }, with: { columns: { loud: upper(text) } } }
YAML
echo s3cret >token
"$binary" run p.yaml --until rows 2>/dev/null
"$binary" serve p.yaml loud --bind 127.0.0.1:0 --token-file token 2>log &
pids+=($!)
for _ in $(seq 100); do grep -q ' at http://' log && break; sleep 0.1; done
address="$(sed -n 's|.* at http://||p' log)"
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

try() { # NAME PORT
  local url="https://localhost:$2" curl=(curl -sS --cacert certificate.pem --resolve "localhost:$2:127.0.0.1")
  local post=("${curl[@]}" -H 'Authorization: Bearer s3cret' -H 'Content-Type: application/json')
  for _ in $(seq 100); do "${curl[@]}" -o /dev/null "$url/livez" 2>/dev/null && break; sleep 0.1; done
  expect() { [ "$2" = "$3" ] || { echo "$1: $2, not $3" >&2; exit 1; }; }
  expect "$1 health" "$("${curl[@]}" "$url/livez")" ok
  expect "$1 rows" "$("${post[@]}" -d '{"rows": [{"text": "abc"}]}' "$url/v1/rows" | grep -c '"loud":"ABC"')" 1
  expect "$1 without a token" "$("${curl[@]}" -o /dev/null -w '%{http_code}' "$url/v1/info")" 401
  # A page of the same origin, and one of another.
  expect "$1 same origin" "$("${post[@]}" -H "Origin: $url" -o /dev/null -w '%{http_code}' -d '{"rows": [{"text": "abc"}]}' "$url/v1/rows")" 200
  expect "$1 another origin" "$("${post[@]}" -H 'Origin: https://evil.example' -o /dev/null -w '%{http_code}' -d '{"rows": [{"text": "abc"}]}' "$url/v1/rows")" 403
  # The page's code has the address of the proxy.
  expect "$1 page" "$("${post[@]}" "$url/" | grep -o "curl http[^ ]*" | sed 's/&#x2f;/\//g')" "curl $url/v1/rows"
  expect "$1 metrics" "$("${post[@]}" -o /dev/null -w '%{http_code}' "$url/metrics")" 403
  expect "$1 too long" "$(head -c 600000 /dev/zero | "${post[@]}" -o /dev/null -w '%{http_code}' --data-binary @- "$url/v1/rows")" 413
  # Ten requests, one after another: the connections to the server live on.
  for _ in $(seq 10); do "${post[@]}" -f -o /dev/null -d '{"rows": [{"text": "abc"}]}' "$url/v1/rows"; done
  grep -Eq ' [0-9a-f]{8}-?[0-9a-f]{4}' log || { echo "$1: no request id of the proxy" >&2; exit 1; }
  echo "$1 passes what it should"
}

port="$(free)"
sed "s/127.0.0.1:8080/$address/; s/8443/127.0.0.1:$port/" "$root/docs/serving/nginx.conf" >nginx.conf
nginx -p "$folder" -c nginx.conf -e error.log -g 'daemon off;' &
pids+=($!)
try nginx "$port"
port="$(free)"
sed "s/127.0.0.1:8080/$address/; s/8443/$port/" "$root/docs/serving/Caddyfile" >Caddyfile
caddy run --config Caddyfile --adapter caddyfile 2>caddy.log &
pids+=($!)
try caddy "$port"
