package postgres

import (
	"context"
	"errors"
	"io"

	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// driver is golang-migrate's pgx driver with one thing changed: a migration and the version that it leads to are one transaction. The
// driver's own way, to mark the version dirty, run the migration and mark it clean, leaves a database that needs a hand where it is killed
// in between.
type driver struct {
	database.Driver
	run    *migration
	at     int // version that is recorded, 0 for none
	target int // version that the next Run leads to
}

func (s *migration) openDriver() (*driver, error) {
	db := stdlib.OpenDB(*s.config, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		if s.owner == "" {
			return nil
		}
		return setRole(ctx, conn, s.owner)
	}))
	inner, err := migratepgx.WithInstance(db, &migratepgx.Config{
		MigrationsTable: `"ml_private"."schema_migrations"`, MigrationsTableQuoted: true,
	})
	if err != nil {
		return nil, errors.Join(Error(err), db.Close())
	}
	return &driver{Driver: inner, run: s, at: s.report.From, target: s.report.From}, nil
}

// Version returns the recorded version as the transactions of this run left it.
func (d *driver) Version() (version int, dirty bool, err error) {
	if d.at == 0 {
		return database.NilVersion, false, nil
	}
	return d.at, false, nil
}

// SetVersion is told the version before and after each Run. Only a migration without a file has not been recorded by then.
func (d *driver) SetVersion(version int, dirty bool) error {
	if version == database.NilVersion {
		version = 0
	}
	d.target = version
	if dirty || version == d.at {
		return nil
	}
	if err := d.run.record(version); err != nil {
		return err
	}
	d.at = version
	return nil
}

// Run runs one migration up or down and records where it leads.
func (d *driver) Run(migration io.Reader) error {
	text, err := io.ReadAll(migration)
	if err != nil {
		return err
	}
	s := d.run
	name := s.files[d.target].up
	if d.target < d.at {
		name = s.files[d.at].down
	}
	err = pgx.BeginFunc(s.ctx, s.conn, func(tx pgx.Tx) error {
		if err := pinSession(s.ctx, tx); err != nil {
			return err
		}
		if err := runScript(s.ctx, tx, name, string(text)); err != nil {
			return err
		}
		return writeVersion(s.ctx, tx, d.target)
	})
	if err != nil {
		return Error(err)
	}
	s.o.Logger.Debug("migration applied", "file", name, "version", d.target)
	s.report.Applied = append(s.report.Applied, name)
	d.at = d.target
	return nil
}

// record writes a version that no script leads to.
func (s *migration) record(version int) error {
	if err := ensureVersionTable(s.ctx, s.conn); err != nil {
		return err
	}
	err := pgx.BeginFunc(s.ctx, s.conn, func(tx pgx.Tx) error { return writeVersion(s.ctx, tx, version) })
	if err == nil {
		s.report.To = version
	}
	return Error(err)
}

func writeVersion(ctx context.Context, tx pgx.Tx, version int) error {
	// The first migration's way down may take the schema with it.
	if err := ensureVersionTable(ctx, tx); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "DELETE FROM ml_private.schema_migrations")
	if err == nil && version > 0 {
		_, err = tx.Exec(ctx, "INSERT INTO ml_private.schema_migrations (version, dirty) VALUES ($1, false)", version)
	}
	return err
}

// beginner is a connection, or a transaction, whose Begin is a savepoint.
type beginner interface {
	queryer
	Begin(ctx context.Context) (pgx.Tx, error)
}

func ensureVersionTable(ctx context.Context, db beginner) error {
	var exists bool
	if err := db.QueryRow(ctx, "SELECT to_regclass('ml_private.schema_migrations') IS NOT NULL").Scan(&exists); err != nil || exists {
		return Error(err)
	}
	return Error(pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS ml_private;
			REVOKE ALL ON SCHEMA ml_private FROM PUBLIC;
			CREATE TABLE ml_private.schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL);
			COMMENT ON TABLE ml_private.schema_migrations IS 'The migration that this database is at, see rowcast migrate version.'`)
		return err
	}))
}

func readVersion(ctx context.Context, q queryer) (version int, dirty bool, err error) {
	var exists bool
	if err := q.QueryRow(ctx, "SELECT to_regclass('ml_private.schema_migrations') IS NOT NULL").Scan(&exists); err != nil || !exists {
		return 0, false, Error(err)
	}
	err = q.QueryRow(ctx, "SELECT version, dirty FROM ml_private.schema_migrations LIMIT 1").Scan(&version, &dirty)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	return max(version, 0), dirty, Error(err)
}
