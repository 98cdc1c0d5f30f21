package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Preflight checks that Rowcast can be installed in conn's database by conn's role: PostgreSQL 15 or newer, UTF-8, the right to create
// schemas, the extension dblink (there, or to be created), its foreign data wrapper, and the role ml_admin (there, or to be created).
// The error names everything that is missing; its hint is the SQL that an administrator runs. Nothing is changed.
func Preflight(ctx context.Context, conn *pgx.Conn) error {
	f, err := readFacts(ctx, conn)
	if err != nil {
		return err
	}
	if f.version < MinServerMajor*10000 {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "PostgreSQL is %s, Rowcast needs %d or newer", f.versionText, MinServerMajor)
	}
	if f.encoding != "UTF8" {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "database %s has the encoding %s, Rowcast needs UTF8", f.database, f.encoding).
			WithHint("CREATE DATABASE name TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';")
	}
	if f.standby {
		return rowcast.Errorf(rowcast.CodeNotPermitted, "this server is a standby and only reads").
			WithHint("Install Rowcast on the primary: the standby follows it.")
	}
	problems, err := f.missing(ctx, conn)
	if err != nil || len(problems) == 0 {
		return err
	}
	var what, sql []string
	for _, p := range problems {
		what = append(what, p.what)
		sql = append(sql, p.sql...)
	}
	return rowcast.Errorf(rowcast.CodeNotPermitted, "role %s cannot install Rowcast in database %s: %s", f.role, f.database, strings.Join(what, "; ")).
		WithDetail("PostgreSQL %s", f.versionText).
		WithHint("An administrator runs in database %s:\n%s", f.database, strings.Join(sql, "\n"))
}

// problem is something that only an administrator can change, and how.
type problem struct {
	what string
	sql  []string
}

type facts struct {
	version               int
	versionText           string
	encoding              string
	database, role        string
	standby               bool
	installed             bool   // schema ml_private exists
	owner                 string // of ml_private
	mayOwn                bool   // we are (a member of) that owner
	mayCreate             bool   // schemas in this database
	dblink                string // schema of the extension, "" for none
	dblinkUsable          bool   // USAGE on that schema
	dblinkAvailable       bool   // its files are there
	wrapper               bool   // USAGE on dblink_fdw
	adminRole, createRole bool
}

func readFacts(ctx context.Context, conn *pgx.Conn) (facts, error) {
	var f facts
	var version string
	// The server version first and alone: what comes after need not work on an old one.
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('server_encoding'),
		current_database()::text, current_user::text, pg_is_in_recovery()`).
		Scan(&version, &f.versionText, &f.encoding, &f.database, &f.role, &f.standby)
	if err != nil {
		return f, Error(err)
	}
	if f.version, err = strconv.Atoi(version); err != nil {
		return f, Error(err)
	}
	if f.version < MinServerMajor*10000 {
		return f, nil
	}
	if f.dblink, err = dblinkSchema(ctx, conn); err != nil {
		return f, err
	}
	err = conn.QueryRow(ctx, `SELECT
			n.oid IS NOT NULL, coalesce(pg_get_userbyid(n.nspowner)::text, ''), coalesce(pg_has_role(n.nspowner, 'MEMBER'), false),
			has_database_privilege(current_database(), 'CREATE'),
			EXISTS (SELECT FROM pg_namespace d WHERE d.nspname = $1 AND has_schema_privilege(d.oid, 'USAGE')),
			EXISTS (SELECT FROM pg_available_extensions WHERE name = 'dblink'),
			EXISTS (SELECT FROM pg_foreign_data_wrapper w WHERE w.fdwname = 'dblink_fdw' AND has_foreign_data_wrapper_privilege(w.oid, 'USAGE')),
			EXISTS (SELECT FROM pg_roles WHERE rolname = 'ml_admin'),
			EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreaterole))
		FROM (VALUES (1)) AS one LEFT JOIN pg_namespace n ON n.nspname = 'ml_private'`, f.dblink).
		Scan(&f.installed, &f.owner, &f.mayOwn, &f.mayCreate, &f.dblinkUsable, &f.dblinkAvailable, &f.wrapper, &f.adminRole, &f.createRole)
	return f, Error(err)
}

func (f *facts) missing(ctx context.Context, conn *pgx.Conn) ([]problem, error) {
	var list []problem
	role := pgx.Identifier{f.role}.Sanitize()
	if f.installed && !f.mayOwn {
		list = append(list, problem{
			fmt.Sprintf("schema ml_private belongs to role %s", f.owner),
			[]string{fmt.Sprintf("GRANT %s TO %s;", pgx.Identifier{f.owner}.Sanitize(), role)},
		})
	}
	if !f.installed && !f.mayCreate {
		list = append(list, problem{
			"it may not create schemas there",
			[]string{fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", pgx.Identifier{f.database}.Sanitize(), role)},
		})
	}
	switch {
	case f.dblink == "" && !f.dblinkAvailable:
		list = append(list, problem{
			"the server has no extension dblink",
			[]string{"-- install PostgreSQL's contrib modules first, on Debian: apt-get install postgresql-contrib"},
		})
	case f.dblink == "":
		refusal, err := tryDblink(ctx, conn)
		if err != nil {
			return nil, err
		}
		if refusal != "" {
			list = append(list, problem{
				fmt.Sprintf("the extension dblink is not installed and it cannot create it (%s)", refusal),
				[]string{
					// A schema of its own, which PUBLIC cannot use: dblink's functions are open to everybody.
					"CREATE SCHEMA dblink;",
					"CREATE EXTENSION dblink SCHEMA dblink;",
					fmt.Sprintf("GRANT USAGE ON SCHEMA dblink TO %s;", role),
					fmt.Sprintf("GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO %s;", role),
				},
			})
		}
	default:
		if !f.dblinkUsable {
			list = append(list, problem{
				fmt.Sprintf("it may not use schema %s, where dblink is", f.dblink),
				[]string{fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", pgx.Identifier{f.dblink}.Sanitize(), role)},
			})
		}
		if !f.wrapper {
			list = append(list, problem{
				"it may not use the foreign data wrapper dblink_fdw",
				[]string{fmt.Sprintf("GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO %s;", role)},
			})
		}
	}
	if !f.adminRole && !f.createRole {
		list = append(list, problem{"the role ml_admin does not exist and it may not create roles", []string{"CREATE ROLE ml_admin NOLOGIN;"}})
	}
	return list, nil
}

// tryDblink creates the extension and takes it back, and returns why that fails, "" where it does not: on managed PostgreSQL no catalogue says
// which extensions an ordinary role may create.
func tryDblink(ctx context.Context, conn *pgx.Conn) (refusal string, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return "", Error(err)
	}
	_, failure := tx.Exec(ctx, "CREATE SCHEMA rowcast_preflight; CREATE EXTENSION dblink SCHEMA rowcast_preflight")
	var pg *pgconn.PgError
	switch {
	case errors.As(failure, &pg):
		refusal = pg.Message
	case failure == nil:
		var usage bool
		failure = tx.QueryRow(ctx, "SELECT has_foreign_data_wrapper_privilege('dblink_fdw', 'USAGE')").Scan(&usage)
		if failure == nil && !usage {
			refusal = "its foreign data wrapper would belong to somebody else"
		}
	}
	return refusal, Error(errors.Join(unlessPg(failure), tx.Rollback(ctx)))
}

// unlessPg keeps only errors that the server did not report.
func unlessPg(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return nil
	}
	return err
}
