// Package migrations holds the SQL that Rowcast installs: numbered migrations for what has state, and functions/*.sql for the SQL API, which is
// replaced as a whole at every `rowcast migrate up`. postgres.Migrator runs both.
package migrations

import "embed"

// Files is 000001_name.{up,down}.sql at its root and the SQL API in functions/.
//
//go:embed *.sql functions/*.sql
var Files embed.FS
