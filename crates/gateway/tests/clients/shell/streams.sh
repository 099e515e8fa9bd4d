#!/usr/bin/env bash
# curl -N as a subscriber: events and lines of JSON as they come, what HTTP/1.0 is told, and a proper end at a drain.
set -euo pipefail

curl() { "$FANFARE_CURL" --silent --show-error --max-time 50 "$@"; }

expect() { # WHAT ACTUAL EXPECTED
    [[ $2 == "$3" ]] || { printf '%s:\n  expected %s\n  got      %s\n' "$1" "$3" "$2" >&2; exit 1; }
}

line_of() { # WHAT FILE-DESCRIPTOR EXPECTED: into `line`; a sign of life may come at any time
    while read -r -t 40 -u "$2" line; do
        [[ $line == : || ( $2 == 4 && -z $line && -n $3 ) ]] || return 0
    done
    printf '%s: nothing came\n' "$1" >&2
    exit 1
}

next() { # WHAT FILE-DESCRIPTOR EXPECTED
    line_of "$@"
    expect "$1" "$line" "$3"
}

goodbye() { # WHAT FILE-DESCRIPTOR: when to come back, each stream for itself
    line_of "$1" "$2" retry
    [[ $line =~ ^retry:\ [0-9]+$ ]] || { printf '%s: %s\n' "$1" "$line" >&2; exit 1; }
}

topic=$FANFARE_URL/topics/logs.web
events='accept: text/event-stream'
rows='accept: application/x-ndjson'

place=$(curl "$topic" -H 'content-type: text/plain' -d 'one')
epoch=$(sed -n 's/.*"epoch":"\([^"]*\)".*/\1/p' <<<"$place")

exec 3< <(curl -N -H "$events" "$topic"; echo "curl ended with $?")
exec 4< <(curl -N -H "$rows" "$topic?from=earliest"; echo "curl ended with $?")
next 'the time to come back after' 3 'retry: 2000'
next 'the sign of life' 3 ':ok'
next 'the id of the last value' 3 "id: $epoch:1"
next 'the last value' 3 'data: one'
next 'the end of the event' 3 ''
next 'the sign of life, in lines' 4 ''
next 'the last value, in lines' 4 '{"topic":"logs.web","offset":1,"data":"one"}'

curl -o /dev/null "$topic" -H 'content-type: application/json' -H 'fanfare-event: sold' -d '{"price": 1.10}'
next 'the next id' 3 "id: $epoch:2"
next 'its name' 3 'event: sold'
next 'its data' 3 'data: {"price": 1.10}'
next 'its end' 3 ''
next 'the next line' 4 '{"topic":"logs.web","offset":2,"event":"sold","data":{"price": 1.10}}'

# A stream has no length and HTTP/1.0 no chunks. Whoever comes with it, such as nginx where it is told nothing else, is
# told; all that ends is for everyone.
for accept in "$events" "$rows"; do
    answer=$(curl --http1.0 -w ' %{http_code}' -H "$accept" "$topic")
    expect "HTTP/1.0 with $accept" "$answer" '{"error":{"code":"bad_request","message":"a stream needs HTTP/1.1"}} 400'
done
expect 'the last value over HTTP/1.0' "$(curl --http1.0 "$topic")" '{"price": 1.10}'
curl -o /dev/null --fail --http1.0 "$topic" -d 'three'
next 'the id of what came over HTTP/1.0' 3 "id: $epoch:3"
next 'its data' 3 'data: three'
next 'its end' 3 ''
next 'its line' 4 '{"topic":"logs.web","offset":3,"data":"three"}'

# Back, from where it was.
exec 5< <(curl -N -H "$events" -H "last-event-id: $epoch:2" "$topic"; echo "curl ended with $?")
next 'the time to come back after, again' 5 'retry: 2000'
next 'the sign of life, again' 5 ':ok'
next 'the id of what was missed' 5 "id: $epoch:3"
next 'what was missed' 5 'data: three'
next 'its end' 5 ''

# A drain is the end of the response, not of the connection in its midst: curl has nothing to complain of.
kill "$FANFARE_PID"
goodbye 'the goodbye of the events' 3
next 'the end of the events' 3 'curl ended with 0'
next 'the end of the lines' 4 'curl ended with 0'
goodbye 'the goodbye of the second stream' 5
next 'the end of the second stream' 5 'curl ended with 0'
