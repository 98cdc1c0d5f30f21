#!/bin/sh
# The main job on real models, in a private PostgreSQL that is gone afterwards. `make demo` calls it; it needs bin/rowcast and psql.
set -eu
cd "$(dirname "$0")"
rowcast=$(cd ../.. && pwd)/bin/rowcast
if [ "${1:-}" != inside ]; then
    command -v psql >/dev/null || {
        echo "make demo shows queries in psql, which is not installed: install the package postgresql-client" >&2
        exit 1
    }
    echo "Starting a private PostgreSQL and the sidecar"
    exec "$rowcast" dev -- ./run.sh inside
fi
q() { psql --no-psqlrc --quiet "$@"; }
echo "Loading tables (iris, diabetes, penguins)"
q -v ON_ERROR_STOP=1 -f tables.sql
echo "Registering models"
for m in iris diabetes penguins; do
    echo "\$ rowcast model register models/$m/model.onnx"
    "$rowcast" model register "models/$m/model.onnx"
done
echo "\$ rowcast model register iris models/iris_v2/model.onnx"
"$rowcast" model register iris models/iris_v2/model.onnx
q -f tour.sql 2>&1
echo "== A whole table, as a job of the database: the sidecar reads, predicts and writes"
for m in iris diabetes penguins; do
    echo "\$ rowcast score $m --source $m --target ${m}_scores --key id"
    "$rowcast" score "$m" --source "$m" --target "${m}_scores" --key id 2>&1
done
echo "\$ rowcast job list"
"$rowcast" job list
q -f verify.sql
echo
echo "All predictions equal the frameworks'. Keep an environment like this one running with: bin/rowcast dev"
