#!/usr/bin/env bash
# curl as a publisher and a reader: what it is told when all is well, and what when it is not.
set -euo pipefail

curl() { "$FANFARE_CURL" --silent --show-error --max-time 10 "$@"; }

expect() { # WHAT ACTUAL EXPECTED
    [[ $2 == "$3" ]] || { printf '%s:\n  expected %s\n  got      %s\n' "$1" "$3" "$2" >&2; exit 1; }
}

matches() { # WHAT ACTUAL REGEX
    [[ $2 =~ $3 ]] || { printf '%s:\n  expected %s\n  got      %s\n' "$1" "$3" "$2" >&2; exit 1; }
}

json='content-type: application/json'
topic=$FANFARE_URL/topics/ticker.BTC-USD

# Publish, and read back the same bytes.
answer=$(curl "$topic" -H "$json" -d '{"bid": 64000.10}')
matches 'the place' "$answer" '^\{"topic":"ticker.BTC-USD","epoch":"[^"]+","offset":1\}$'
expect 'the last value' "$(curl "$topic")" '{"bid": 64000.10}'
expect 'text stays text' "$(curl "$topic" -H 'content-type: text/plain' -d 'up' >/dev/null && curl "$topic")" 'up'

# Ask again only for what is new.
etag=$(curl --head "$topic" | tr -d '\r' | sed -n 's/^etag: //p')
matches 'the entity tag' "$etag" '^"[^"]+:2"$'
fresh() { curl -o /dev/null -w '%{http_code}' -H "if-none-match: $etag" "$topic"; }
expect 'nothing new' "$(fresh)" 304
curl "$topic" -H "$json" -d '3' >/dev/null
expect 'something new' "$(fresh)" 200

# Lines.
answer=$(printf 'one\ntwo\n\nthree' | curl "$topic?split=lines" -H 'content-type: text/plain' --data-binary @-)
matches 'lines' "$answer" '"first":4,"offset":6,"count":3\}$'
expect 'the last line' "$(curl "$topic")" 'three'

# What is refused is refused in words, and nothing of it is published.
refused() { # WHAT STATUS CODE CURL-ARGUMENTS…
    local answer
    answer=$(curl -w '\n%{http_code}' "${@:4}")
    expect "the status of $1" "${answer##*$'\n'}" "$2"
    matches "the answer to $1" "$answer" "^\{\"error\":\{\"code\":\"$3\",\"message\":\"[^\"]+"
}
large() { head -c "$1" /dev/zero | tr '\0' x; }
refused 'bad JSON' 400 bad_request "$topic" -H "$json" -d '{"bid":'
refused 'bad UTF-8' 400 bad_request "$topic" -H 'content-type: text/plain' --data-binary $'caf\xe9'
refused 'a bad line' 400 bad_request "$topic?split=lines" -H "$json" --data-binary $'1\n2,\n'
refused 'a bad topic' 400 bad_topic "$FANFARE_URL/topics/a..b" -d x
refused 'a wildcard' 400 bad_topic "$FANFARE_URL/topics/ticker.*" -d x
refused 'an unknown split' 400 bad_request "$topic?split=words" -d x
refused 'a large message' 413 too_large "$topic" --data-binary @<(large 65537)
refused 'a large body' 413 too_large "$topic?split=lines" -H 'expect:' --data-binary @<(large 1048577)
refused 'another method' 405 method_not_allowed "$topic" -X DELETE
refused 'reading where one publishes' 405 method_not_allowed "$FANFARE_URL/publish"
refused 'a form' 415 unsupported_media_type "$FANFARE_URL/publish" -d topic=a
refused 'a packed body' 415 unsupported_media_type "$topic" -H 'content-encoding: gzip' -d x
refused 'a topic without a value' 404 not_found "$FANFARE_URL/topics/nothing"
refused 'no such path' 404 not_found "$FANFARE_URL/nothing"
refused 'metrics in public' 404 not_found "$FANFARE_URL/metrics"
refused 'a plain GET of the WebSocket' 426 bad_request "$FANFARE_URL/ws"
expect 'the last value, after all that' "$(curl "$topic")" 'three'

# Health is public, metrics are the operators'.
expect 'health' "$(curl "$FANFARE_URL/healthz")" ok
expect 'readiness' "$(curl "$FANFARE_URL/readyz")" ready
matches 'metrics' "$(curl "$FANFARE_ADMIN/metrics")" $'\nfanfare_messages_total 6\n'
