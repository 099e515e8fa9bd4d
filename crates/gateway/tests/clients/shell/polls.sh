#!/usr/bin/env bash
# curl in a loop over /poll: a cursor leads to the next one while somebody publishes. The gateway keeps 50 messages.
set -euo pipefail

curl() { "$FANFARE_CURL" --silent --show-error --fail-with-body --max-time 40 "$@"; }

expect() { # WHAT ACTUAL EXPECTED
    [[ $2 == "$3" ]] || { printf '%s:\n  expected %s\n  got      %s\n' "$1" "$3" "$2" >&2; exit 1; }
}

poll() { answer=$(curl --get "$FANFARE_URL/poll" --data-urlencode 'topic=polls.*' "$@"); }
cursor() { sed -n 's/^{"cursor":"\([^"]*\)".*/\1/p' <<<"$answer"; }
offsets() { grep -o '"offset":[0-9]*' <<<"$answer" | cut -d : -f 2 || true; }
post() { curl -o /dev/null -H 'content-type: application/json' -d "$1" "$FANFARE_URL/topics/polls.a"; }

poll
expect 'nothing is there' "$(offsets)" ''
for number in {1..40}; do post "$number"; done &
last=0
while ((last < 40)); do
    poll --data-urlencode "cursor=$(cursor)" --data wait=25
    expect 'a gap' "$(grep -o '"gap":[a-z]*' <<<"$answer")" '"gap":false'
    for offset in $(offsets); do
        ((offset <= last)) && continue
        expect 'the next offset' "$offset" "$((last + 1))"
        last=$offset
    done
done
wait

# Whoever comes back too late is told so, and has the last value.
old=$(cursor)
for number in {41..120}; do post "$number"; done
poll --data-urlencode "cursor=$old" --data wait=25
expect 'what is told' "$(grep -o '"gap":[a-z]*' <<<"$answer")" '"gap":true'
expect 'what is there' "$(offsets)" 120
poll --data-urlencode "cursor=$(cursor)" --data wait=1
expect 'nothing new in time' "$(grep -o '"gap":[a-z]*,"messages":.*' <<<"$answer")" '"gap":false,"messages":[]}'

# One topic, by its entity tag.
etag=$(curl --head "$FANFARE_URL/topics/polls.a" | tr -d '\r' | sed -n 's/^etag: //p')
expect 'not in time' "$(curl -w '%{http_code}' -H "if-none-match: $etag" "$FANFARE_URL/topics/polls.a?wait=1")" 304
post 121 &
expect 'in time' "$(curl -w ' %{http_code}' -H "if-none-match: $etag" "$FANFARE_URL/topics/polls.a?wait=25")" '121 200'
wait
