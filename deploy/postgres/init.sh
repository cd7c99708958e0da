#!/bin/sh
# First start: create a role and a database each for Tidemill and MLflow, whose tables would clash.
set -eu
for name in tidemill mlflow; do
    psql -v ON_ERROR_STOP=1 --username postgres -v name="$name" \
        -v password="$(cat "/run/secrets/${name}_db_password")" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
