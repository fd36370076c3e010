#!/bin/sh
# An S3-compatible store over a folder: a bucket is a folder, an object is a file.
set -eu

until test -r /secrets/storage/secret_key; do sleep 0.5; done
mkdir -p "/storage/${S3_BUCKET:-mlflow}"
# One entry of a list that is separated by commas: hence the quotes.
RCLONE_AUTH_KEY="\"$(cat /secrets/storage/access_key),$(cat /secrets/storage/secret_key)\""
export RCLONE_AUTH_KEY
exec rclone serve s3 /storage --addr=:9000 --config=/dev/null --vfs-cache-mode=writes --dir-cache-time=1s
