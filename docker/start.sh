#!/bin/bash
# Waits for what a component needs, then becomes it: start.sh airflow scheduler.
set -euo pipefail

say() { echo "start: $*" >&2; }

# NEEDS: files to find below /secrets. WAIT_FOR: host:port, separated by blanks. MIGRATED=no: Airflow's database is
# not needed, or about to be prepared.
deadline=$((SECONDS + ${WAIT_SECONDS:-300}))

wait_until() { # what it is, how to mend it, command
    local what=$1 mend=$2 said=
    shift 2
    until "$@" 2>/dev/null; do
        if ((SECONDS > deadline)); then
            say "gave up: $what is still missing. $mend"
            exit 1
        fi
        [[ -n $said ]] || { say "waiting for $what"; said=yes; }
        sleep 0.5
    done
}

answers() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}"); }
migrated() { [[ $(cat /secrets/airflow/migrated) == "$version" ]]; }

for name in ${NEEDS:-}; do
    wait_until "the secret /secrets/$name" "The service 'secrets' writes it: see its log." test -r "/secrets/$name"
done
for address in ${WAIT_FOR:-}; do
    wait_until "$address" "See the log of that service." answers "$address"
done

if [[ ${MIGRATED:-yes} == yes ]]; then
    version=$(python -c 'from importlib.metadata import version; print(version("apache-airflow-core"))')
    wait_until "the database of Airflow $version" "The service 'migrate' prepares it: see its log." migrated
fi

# A home of its own would let every task succeed and no other worker find what it wrote.
home=${AIRFLOW__MLOPS__HOME:-}
if [[ -e /secrets/airflow/home_id && $home == /* ]]; then
    if [[ $(cat "$home/run/home_id" 2>/dev/null) != "$(</secrets/airflow/home_id)" ]]; then
        say "$home is not the volume that the other services have as their home."
        say "Mount the same volume there in every service (compose.yaml: 'home'), and start again."
        exit 1
    fi
    mkdir -p "$home/run/hosts"
    touch "$home/run/hosts/$(hostname)"
fi

# MLflow takes no secret by file.
for variable in $(compgen -e | grep '_FILE$' || true); do
    [[ ${!variable} == /secrets/* ]] && export "${variable%_FILE}=$(<"${!variable}")"
done

exec "$@"
