package postgres

import (
	"context"
	"errors"
	"io/fs"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowcast/rowcast/internal/rowcast"
)

const functionsDir = "functions"

// applyFunctions runs functions/*.sql in the order of their names in one transaction: callers see all of the old SQL API or all of the new.
// Returns the number of files.
func applyFunctions(ctx context.Context, conn *pgx.Conn, source fs.FS) (int, error) {
	files, err := fs.Glob(source, functionsDir+"/*.sql")
	if err != nil {
		return 0, rowcast.Errorf(rowcast.CodeInternal, "cannot list the SQL API's files").WithCause(err)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := pinSession(ctx, tx); err != nil {
			return err
		}
		for _, name := range files {
			raw, err := fs.ReadFile(source, name)
			if err != nil {
				return rowcast.Errorf(rowcast.CodeInternal, "cannot read %s", name).WithCause(err)
			}
			text, err := expand(ctx, tx, name, string(raw))
			if err != nil {
				return err
			}
			if err := runScript(ctx, tx, name, text); err != nil {
				return err
			}
		}
		return nil
	})
	return len(files), Error(err)
}

// expand replaces {{.Dblink}} by the quoted name of the schema in which this database has the extension dblink, which need not be ours.
// No text/template here: array literals in comments and bodies are full of double braces.
func expand(ctx context.Context, tx pgx.Tx, name, text string) (string, error) {
	pattern := regexp.MustCompile(`\{\{\s*\.([A-Za-z]+)\s*\}\}`)
	dblink := ""
	for _, m := range pattern.FindAllStringSubmatchIndex(text, -1) {
		line := 1 + strings.Count(text[:m[0]], "\n")
		if word := text[m[2]:m[3]]; word != "Dblink" {
			return "", rowcast.Errorf(rowcast.CodeInternal, "%s:%d: there is no {{.%s}}, only {{.Dblink}}", name, line, word)
		}
		if dblink != "" {
			continue
		}
		var err error
		if dblink, err = dblinkSchema(ctx, tx); err != nil {
			return "", err
		}
		if dblink == "" {
			return "", rowcast.Errorf(rowcast.CodeNotFound, "%s:%d: the extension dblink is not installed", name, line).
				WithHint("CREATE EXTENSION dblink SCHEMA ml_private;")
		}
	}
	return pattern.ReplaceAllLiteralString(text, pgx.Identifier{dblink}.Sanitize()), nil
}

// dblinkSchema returns the schema of the extension dblink, "" where it is not installed.
func dblinkSchema(ctx context.Context, q queryer) (string, error) {
	var schema string
	err := q.QueryRow(ctx, `SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
		WHERE e.extname = 'dblink'`).Scan(&schema)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return schema, Error(err)
}

// queryer is a connection or a transaction.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}
