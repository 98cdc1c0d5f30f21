package postgres

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const ownSearchPath = `"$user", public, ml`

// setSearchPath adds ml to the database's search_path. A path that somebody has set is kept and ml goes to its end.
func (s *migration) setSearchPath() error {
	database, current, err := s.searchPath()
	if err != nil {
		return err
	}
	for _, schema := range strings.Split(current, ",") {
		if name := strings.TrimSpace(schema); name == "ml" || name == `"ml"` {
			return nil
		}
	}
	path := ownSearchPath
	if current != "" {
		path = current + ", ml"
	}
	if current == `""` {
		s.note("search_path of database %s is empty on purpose and stays so: call ml.predict(…)", database)
		return nil
	}
	sql := fmt.Sprintf("ALTER DATABASE %s SET search_path TO %s", pgx.Identifier{database}.Sanitize(), path)
	return s.alterDatabase(sql, fmt.Sprintf("search_path of database %s is now %s (sessions that begin from now on)", database, path))
}

// resetSearchPath takes back what setSearchPath did, and nothing else.
func (s *migration) resetSearchPath() error {
	database, current, err := s.searchPath()
	if err != nil {
		return err
	}
	name := pgx.Identifier{database}.Sanitize()
	switch {
	case current == ownSearchPath:
		return s.alterDatabase(fmt.Sprintf("ALTER DATABASE %s RESET search_path", name),
			fmt.Sprintf("search_path of database %s is the default again", database))
	case strings.HasSuffix(current, ", ml"):
		path := strings.TrimSuffix(current, ", ml")
		return s.alterDatabase(fmt.Sprintf("ALTER DATABASE %s SET search_path TO %s", name, path),
			fmt.Sprintf("search_path of database %s is %s again", database, path))
	}
	return nil
}

// searchPath returns the database's name and the search_path set for it, "" for none.
func (s *migration) searchPath() (database, path string, err error) {
	err = s.conn.QueryRow(s.ctx, `SELECT d.datname::text, coalesce((
			SELECT substr(c, length('search_path=') + 1) FROM pg_db_role_setting r, unnest(r.setconfig) AS c
			WHERE r.setdatabase = d.oid AND r.setrole = 0 AND c LIKE 'search\_path=%'), '')
		FROM pg_database d WHERE d.datname = current_database()`).Scan(&database, &path)
	return database, path, Error(err)
}

// alterDatabase runs sql, which the database's owner may, as the role that logged in. One who may not gets a note instead of an error: predict
// works without, as ml.predict.
func (s *migration) alterDatabase(sql, done string) error {
	if _, err := s.conn.Exec(s.ctx, "RESET ROLE"); err != nil {
		return Error(err)
	}
	_, err := s.conn.Exec(s.ctx, sql)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		s.note("search_path is unchanged, only the owner of the database may change it: %s;", sql)
		return nil
	}
	if err != nil {
		return Error(err)
	}
	s.report.Notes = append(s.report.Notes, done)
	return nil
}

// setGateway tells the foreign server where the sidecar listens.
func (s *migration) setGateway() error {
	rows, err := s.conn.Query(s.ctx, `SELECT split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)
		FROM pg_foreign_server f, unnest(f.srvoptions) AS o WHERE f.srvname = 'rowcast_gateway'`)
	if err != nil {
		return Error(err)
	}
	have := map[string]string{}
	var key, value string
	if _, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error { have[key] = value; return nil }); err != nil {
		return Error(err)
	}
	var changes []string
	for _, want := range [][2]string{{"host", s.o.GatewayHost}, {"port", strconv.Itoa(s.o.GatewayPort)}} {
		old, exists := have[want[0]]
		if exists && old == want[1] || want[0] == "port" && s.o.GatewayPort == 0 {
			continue
		}
		action := "ADD"
		if exists {
			action = "SET"
		}
		changes = append(changes, fmt.Sprintf("%s %s '%s'", action, want[0], strings.ReplaceAll(want[1], "'", "''")))
	}
	if len(changes) == 0 {
		return nil
	}
	if _, err := s.conn.Exec(s.ctx, "ALTER SERVER rowcast_gateway OPTIONS ("+strings.Join(changes, ", ")+")"); err != nil {
		return Error(err)
	}
	s.note("the SQL functions look for the sidecar at %s, port %d", s.o.GatewayHost, s.o.GatewayPort)
	return nil
}

func (s *migration) note(format string, args ...any) {
	s.report.Notes = append(s.report.Notes, fmt.Sprintf(format, args...))
}
