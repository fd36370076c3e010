#!/bin/sh
# PostgreSQL, told what the official image is told: PGDATA, POSTGRES_PASSWORD_FILE.
set -eu

until test -r "$POSTGRES_PASSWORD_FILE"; do sleep 0.5; done

# What was begun and not ended is begun again: the last line of an untouched pg_hba.conf is not ours.
if ! grep -qs '^host all all all scram-sha-256$' "$PGDATA/pg_hba.conf"; then
    if [ -d "$PGDATA/base/1" ] && [ -s "$PGDATA/postmaster.opts" ]; then
        echo "postgres: $PGDATA holds a database that another image made, and it lets in nobody from outside." >&2
        echo "Give it the image that made it (POSTGRES_IMAGE), or another volume." >&2
        exit 1
    fi
    find "$PGDATA" -mindepth 1 -delete
    initdb --pgdata="$PGDATA" --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 \
        --encoding=UTF8 --no-sync >/dev/null
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    sync
fi
exec postgres -c listen_addresses='*' "$@"
