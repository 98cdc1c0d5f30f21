package modelmigrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
	"github.com/jackc/pgx/v5"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// driver is golang-migrate's side of a session. It differs from the driver pgx5 in one thing: a migration and the version that it leads to are one
// transaction. It shares that driver's version table and lock.
type driver struct {
	run    *session
	at     int // version that is recorded, 0 for none
	target int // version that the next Run leads to
}

var _ database.Driver = (*driver)(nil)

// Open is for drivers that are made from a URL.
func (d *driver) Open(string) (database.Driver, error) {
	return nil, errors.New("a session has its connection already")
}

// Close leaves the connection to the session.
func (d *driver) Close() error { return nil }

// Lock does nothing: the session holds the lock from before it read the version.
func (d *driver) Lock() error { return nil }

// Unlock does nothing, see Lock.
func (d *driver) Unlock() error { return nil }

// Drop is no part of a run.
func (d *driver) Drop() error { return errors.New("model migrations are taken down one by one") }

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
	s := d.run
	p := s.files.at(d.at)
	if p != nil && version < d.at && p.down == "" {
		return rowcast.Errorf(rowcast.CodeNotFound, "%s has no way down", p.change).
			WithHint("Write %s.down.sql with SELECT ml.revert_change('%s');", p.change, p.change)
	}
	err := pgx.BeginFunc(s.ctx, s.conn, func(tx pgx.Tx) error { return s.writeVersion(tx, version) })
	if err == nil {
		d.at = version
	}
	return postgres.Error(err)
}

// Run runs one migration up or down and records where it leads.
func (d *driver) Run(migration io.Reader) error {
	text, err := io.ReadAll(migration)
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read a model migration").WithCause(err)
	}
	s := d.run
	start := time.Now()
	up := d.target > d.at
	p := s.files.at(d.target)
	if !up {
		p = s.files.at(d.at)
	}
	err = s.transaction(func(tx pgx.Tx) error {
		if up {
			// The text that golang-migrate has read, should it not be what the folder had when its files were checked.
			return s.runUp(tx, p, string(text), d.target)
		}
		return s.runDown(tx, p, string(text), d.target)
	})
	if err != nil {
		return err
	}
	d.at = d.target
	step := Step{Version: p.version, Name: p.title(), File: p.up, Up: up, Took: time.Since(start)}
	if !up {
		step.File = p.down
	}
	s.o.Logger.Debug("model migration applied", "file", step.File, "version", d.at)
	s.report.Applied = append(s.report.Applied, step)
	if s.o.Applied != nil {
		s.o.Applied(step)
	}
	return nil
}

// transaction runs work in a transaction of the session's connection. A failure gives back the ids that it took.
func (s *session) transaction(work func(pgx.Tx) error) error {
	numbers, err := db.New(s.conn).Numbers(s.ctx)
	if err != nil {
		return postgres.Error(err)
	}
	err = pgx.BeginTxFunc(s.ctx, s.conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, work)
	if err == nil {
		return nil
	}
	s.rewind(numbers)
	return postgres.Error(err)
}

// rewind is best effort: an interrupted runner has no connection left, and the ids are only internal.
func (s *session) rewind(numbers []byte) {
	if s.conn.IsClosed() {
		return
	}
	if err := db.New(s.conn).Rewind(context.WithoutCancel(s.ctx), numbers); err != nil {
		s.o.Logger.Debug("the ids of the failed step were not given back", "error", err)
	}
}

func (s *session) runUp(tx pgx.Tx, p *pair, text string, version int) error {
	if err := s.begin(tx, p); err != nil {
		return err
	}
	if err := postgres.RunFile(s.ctx, tx.Conn(), p.up, text); err != nil {
		return err
	}
	return s.writeVersion(tx, version)
}

// begin opens the change, before the file does, so that a file which does not is noted too.
func (s *session) begin(tx pgx.Tx, p *pair) error {
	err := db.New(tx).BeginChange(s.ctx, db.BeginChangeParams{Name: p.change, Checksum: p.checksum})
	if known := postgres.Error(err); rowcast.CodeOf(known) == rowcast.CodeAlreadyExists {
		var e *rowcast.Error
		if errors.As(known, &e) {
			again := *e
			again.Message = fmt.Sprintf("%s: %s", p.up, e.Message)
			return &again
		}
	}
	return postgres.Error(err)
}

func (s *session) runDown(tx pgx.Tx, p *pair, text string, version int) error {
	if err := p.check(p.down, text); err != nil {
		return err
	}
	if err := postgres.RunFile(s.ctx, tx.Conn(), p.down, text); err != nil {
		return err
	}
	// A way down that was written by hand does not revert the change: it is over all the same.
	if err := db.New(tx).ForgetChange(s.ctx, p.change); err != nil {
		return err
	}
	return s.writeVersion(tx, version)
}

func (r *Runner) tableName() string { return pgx.Identifier{r.schema, r.table}.Sanitize() }

func (s *session) writeVersion(tx pgx.Tx, version int) error {
	if _, err := tx.Exec(s.ctx, "DELETE FROM "+s.tableName()); err != nil {
		return s.tableError(err)
	}
	if version == 0 {
		return nil
	}
	_, err := tx.Exec(s.ctx, "INSERT INTO "+s.tableName()+" (version, dirty) VALUES ($1, false)", version)
	return s.tableError(err)
}

func (r *Runner) tableError(err error) error {
	err = postgres.Error(err)
	var e *rowcast.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case rowcast.CodeNotPermitted:
		e.Hint = fmt.Sprintf("GRANT ml_admin TO your role, or keep the version in a table of your own: --table schema.name (now %s.%s).", r.schema, r.table)
	case rowcast.CodeNotFound:
		if r.schema+"."+r.table == DefaultTable {
			e.Hint = "Install or update Rowcast in this database with: rowcast migrate up"
		}
	}
	return err
}

// ensureTable makes a version table of one's own; the default one comes with Rowcast.
func (s *session) ensureTable() error {
	exists, err := s.tableExists(s.ctx, s.conn)
	if err != nil || exists || s.schema+"."+s.table == DefaultTable {
		return err
	}
	_, err = s.conn.Exec(s.ctx, "CREATE TABLE IF NOT EXISTS "+s.tableName()+" (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL)")
	return s.tableError(err)
}

func (r *Runner) tableExists(ctx context.Context, q db.DBTX) (exists bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2)`, r.schema, r.table).Scan(&exists)
	return exists, postgres.Error(err)
}

func (r *Runner) readVersion(ctx context.Context, q db.DBTX) (version int, dirty bool, err error) {
	exists, err := r.tableExists(ctx, q)
	if err != nil || !exists && r.schema+"."+r.table != DefaultTable {
		return 0, false, err
	}
	err = q.QueryRow(ctx, "SELECT version, dirty FROM "+r.tableName()+" LIMIT 1").Scan(&version, &dirty)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	return max(version, 0), dirty, r.tableError(err)
}
