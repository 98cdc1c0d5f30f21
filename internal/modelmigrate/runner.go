package modelmigrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Defaults of Options.
const (
	DefaultDir   = "models"
	DefaultTable = "ml.model_migrations"
)

// Options says which migrations a Runner runs and how. Empty fields take the defaults.
type Options struct {
	Dir   string // folder of the migrations
	Table string // version table, schema.name: one for each repository that ships models into the same database

	Applied   func(Step)                                            // nil: told nothing
	Uploading func(path string, size int64) func(done, total int64) // nil: told nothing; may return nil
	Warning   func(message string)                                  // told what registrations warn of; nil: told nothing
	Logger    *slog.Logger                                          // nil: silent
}

// Step is one migration that was applied.
type Step struct {
	Version int           `json:"version"`
	Name    string        `json:"name"` // churn_v2
	File    string        `json:"file"`
	Up      bool          `json:"up"`
	Took    time.Duration `json:"-"`
}

// Report says what a Runner's method did.
type Report struct {
	From     int      `json:"from"` // version before, 0 for none
	To       int      `json:"to"`
	Applied  []Step   `json:"applied"`
	Uploaded []string `json:"uploaded"` // paths of artifacts that were sent
	Notes    []string `json:"notes,omitempty"`
}

// Runner takes one database through the migrations of one folder. Its methods connect for each call, with the rights of the URL's role, and return
// *rowcast.Error.
type Runner struct {
	url    string
	o      Options
	schema string
	table  string
}

// New makes a Runner for the database at url. It does not connect yet. CodeInvalidArgument where the table's name makes no sense.
func New(url string, o Options) (*Runner, error) {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if o.Table == "" {
		o.Table = DefaultTable
	}
	schema, table, ok := strings.Cut(o.Table, ".")
	if !ok || schema == "" || table == "" || strings.ContainsAny(o.Table, `"`) || strings.Contains(table, ".") {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "%q names no version table", o.Table).WithHint("Write schema.name, for instance %s.", DefaultTable)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Runner{url: url, o: o, schema: schema, table: table}, nil
}

// Up runs the next n migrations, all where n is negative.
func (r *Runner) Up(ctx context.Context, n int) (Report, error) {
	return r.run(ctx, func(s *session) error { return s.goTo(s.files.above(s.report.From, n)) })
}

// Down undoes the last n migrations, all where n is negative.
func (r *Runner) Down(ctx context.Context, n int) (Report, error) {
	return r.run(ctx, func(s *session) error { return s.goTo(s.files.below(s.report.From, n)) })
}

// Goto migrates up or down to a version; 0 undoes all.
func (r *Runner) Goto(ctx context.Context, version int) (Report, error) {
	return r.run(ctx, func(s *session) error {
		if err := s.files.need(version, "asked for version"); err != nil {
			return err
		}
		return s.goTo(version)
	})
}

// Force records a version without running anything, also over a dirty one, and takes the files up to there for those that ran.
func (r *Runner) Force(ctx context.Context, version int) (Report, error) {
	s, err := r.open(ctx)
	if err != nil {
		return Report{}, err
	}
	defer s.close()
	if err := s.files.need(version, "asked for version"); err != nil {
		return s.report, err
	}
	err = s.force(version)
	return s.report, err
}

// Version reads where the database is, without a lock.
func (r *Runner) Version(ctx context.Context) (version int, dirty bool, err error) {
	conn, err := postgres.Open(ctx, r.url, postgres.OpenOptions{ApplicationName: applicationName, MaxConns: 1})
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	return r.readVersion(ctx, conn)
}

const applicationName = "rowcast model migration"

// session is one run: a connection of its own that holds the lock, the files, and what has been done.
type session struct {
	*Runner
	ctx     context.Context // here because golang-migrate's driver interface has none
	pool    *pgxpool.Pool
	conn    *pgx.Conn
	files   *folder
	library *library
	changes map[string]db.ChangesRow // by name
	report  Report
	dirty   bool
}

func (r *Runner) run(ctx context.Context, work func(*session) error) (Report, error) {
	s, err := r.open(ctx)
	if err != nil {
		return Report{}, err
	}
	defer s.close()
	if s.dirty {
		return s.report, s.explainDirty()
	}
	if err := s.files.need(s.report.From, "the database is at version"); err != nil {
		return s.report, err
	}
	err = work(s)
	return s.report, err
}

// open connects, takes the lock and finds out where the database is.
func (r *Runner) open(ctx context.Context) (*session, error) {
	files, err := readFolder(r.o.Dir)
	if err != nil {
		return nil, err
	}
	s := &session{Runner: r, ctx: ctx, files: files, library: &library{dir: r.o.Dir}, report: Report{Applied: []Step{}, Uploaded: []string{}}}
	if s.pool, err = postgres.Open(ctx, r.url, postgres.OpenOptions{ApplicationName: applicationName, MaxConns: 3, Warning: r.o.Warning}); err != nil {
		return nil, err
	}
	taken, err := s.pool.Acquire(ctx)
	if err != nil {
		s.pool.Close()
		return nil, postgres.Error(err)
	}
	s.conn = taken.Hijack()
	if err := s.prepare(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// close gives the lock back with the connection.
func (s *session) close() {
	_ = s.conn.Close(context.WithoutCancel(s.ctx))
	s.pool.Close()
}

func (s *session) prepare() error {
	// A runner that is killed in the middle of a long validation must not hold the lock until that ends. Not every system can look for that.
	if _, err := s.conn.Exec(s.ctx, "SET client_connection_check_interval = '2s'"); err != nil {
		s.o.Logger.Debug("the server does not look whether its clients are there", "error", err)
	}
	if err := s.lock(); err != nil {
		return err
	}
	if err := s.ensureTable(); err != nil {
		return err
	}
	var err error
	if s.report.From, s.dirty, err = s.readVersion(s.ctx, s.conn); err != nil {
		return err
	}
	s.report.To = s.report.From
	s.changes, err = readChanges(s.ctx, s.conn)
	return err
}

func readChanges(ctx context.Context, q db.DBTX) (map[string]db.ChangesRow, error) {
	rows, err := db.New(q).Changes(ctx)
	if err != nil {
		return nil, postgres.Error(err)
	}
	changes := make(map[string]db.ChangesRow, len(rows))
	for _, c := range rows {
		changes[c.Name] = c
	}
	return changes, nil
}

// lock takes the lock that golang-migrate's program takes for the same table of the same database.
func (s *session) lock() error {
	var name string
	if err := s.conn.QueryRow(s.ctx, "SELECT current_database()").Scan(&name); err != nil {
		return postgres.Error(err)
	}
	// That program has the path of its URL for the name, with the slash.
	key, err := database.GenerateAdvisoryLockId("/"+name, s.schema, s.table)
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInternal, "there is no key for the lock").WithCause(err)
	}
	var free bool
	if err := s.conn.QueryRow(s.ctx, "SELECT pg_try_advisory_lock($1::text::bigint)", key).Scan(&free); err != nil || free {
		return postgres.Error(err)
	}
	s.o.Logger.Info("another runner works on this database; waiting for it")
	_, err = s.conn.Exec(s.ctx, "SELECT pg_advisory_lock($1::text::bigint)", key)
	return postgres.Error(err)
}

// artifacts uploads what the migrations name and the database has not.
func (s *session) artifacts(steps []*pair) error {
	catalog := registry.NewCatalog(s.pool)
	for _, p := range steps {
		for _, sha := range p.artifacts() {
			missing, err := catalog.Missing(s.ctx, sha)
			if err != nil {
				return err
			}
			if missing == 0 {
				continue
			}
			path, pointer, err := s.library.find(s.ctx, sha)
			if err != nil {
				return err
			}
			if path == "" {
				return s.library.missing(p, sha, pointer)
			}
			if err := s.upload(catalog, path); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) upload(catalog *registry.Catalog, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read an artifact").WithCause(err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read an artifact").WithCause(err)
	}
	var progress func(done, total int64)
	if s.o.Uploading != nil {
		progress = s.o.Uploading(path, info.Size())
	}
	_, sent, err := catalog.Upload(s.ctx, file, progress)
	if err != nil {
		if rowcast.CodeOf(err) == rowcast.CodeCanceled {
			return rowcast.Errorf(rowcast.CodeCanceled, "stopped while uploading %s", path).WithCause(err).WithHint("Run it again: it goes on where it stopped.")
		}
		return err
	}
	if sent {
		s.report.Uploaded = append(s.report.Uploaded, path)
	}
	return nil
}

// edited refuses to go on where a file is not what ran.
func (s *session) edited() error {
	for _, p := range s.files.between(0, s.report.From) {
		if c, ok := s.changes[p.change]; ok && c.Checksum != "" && c.Checksum != p.checksum {
			return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s was edited after it ran", p.up).
				WithDetail("Its SHA-256 is %s; what ran at %s had %s.", p.checksum, c.BegunAt.UTC().Format(time.RFC3339), c.Checksum).
				WithHint("Restore the file and write a new migration instead; or, where the edit changes nothing, rowcast model migration force %d.", s.report.From)
		}
	}
	return nil
}

// late notes the files below the recorded version of which nothing shows that they ran: no command would run them.
func (s *session) late() {
	for _, p := range s.files.between(0, s.report.From) {
		if _, made := s.changes[p.change]; !made && strings.Contains(p.text, "ml.begin_change('"+p.change+"'") {
			s.report.Notes = append(s.report.Notes, fmt.Sprintf("%s is below version %d, but nothing shows that it ran: where it came late, give it a higher number "+
				"in its file names and in its SQL", p.up, s.report.From))
		}
	}
}

// goTo lets golang-migrate order and run the migrations between here and version.
func (s *session) goTo(version int) error {
	if version >= s.report.From {
		s.late()
	}
	if version == s.report.From {
		return s.edited()
	}
	if version > s.report.From {
		steps := s.files.between(s.report.From, version)
		for _, p := range steps {
			if err := p.check(p.up, p.text); err != nil {
				return err
			}
		}
		if err := s.edited(); err != nil {
			return err
		}
		if err := s.artifacts(steps); err != nil {
			return err
		}
	}
	files, err := iofs.New(os.DirFS(s.o.Dir), ".")
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "the migrations cannot be read").WithCause(err)
	}
	d := &driver{run: s, at: s.report.From, target: s.report.From}
	m, err := migrate.NewWithInstance("models", files, "rowcast", d)
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInternal, "golang-migrate cannot start").WithCause(err)
	}
	defer m.Close()
	stopped := context.AfterFunc(s.ctx, func() {
		select {
		case m.GracefulStop <- true:
		default:
		}
	})
	defer stopped()
	if version == 0 {
		err = m.Down()
	} else {
		err = m.Migrate(uint(version))
	}
	s.report.To = d.at
	switch {
	case err == nil || errors.Is(err, migrate.ErrNoChange):
		return postgres.Error(s.ctx.Err())
	case errors.Is(err, fs.ErrNotExist):
		return rowcast.Errorf(rowcast.CodeNotFound, "a file on the way from version %d to %d is missing", s.report.From, version).WithCause(err)
	}
	return postgres.Error(err)
}

// explainDirty says what became of the step in which the tool migrate was interrupted, and how to go on.
func (s *session) explainDirty() error {
	marked := s.report.From
	e := rowcast.Errorf(rowcast.CodeInvalidArgument, "version %d is marked dirty: the tool migrate was interrupted or failed there", marked)
	next := s.files.at(s.files.above(marked, 1))
	here := s.files.at(marked)
	in := func(p *pair) bool {
		if p == nil {
			return false
		}
		_, ok := s.changes[p.change]
		return ok
	}
	var at int
	switch {
	case next != nil && next != here && in(next):
		at = next.version
		e = e.WithDetail("%s is still in place: its way down left nothing changed.", next.change)
	case in(here):
		at = marked
		e = e.WithDetail("%s is in place as a whole.", here.change)
	case here != nil:
		at = s.files.below(marked, 1)
		e = e.WithDetail("%s left nothing behind.", here.change)
	default:
		e = e.WithDetail("Nothing of the first migration is in place.")
	}
	return e.WithHint("rowcast model migration force %d, then go on. (The journal of changes says so; it knows of files that call ml.begin_change.)", at)
}

// force records a version and the files that lead to it.
func (s *session) force(version int) error {
	return postgres.Error(pgx.BeginFunc(s.ctx, s.conn, func(tx pgx.Tx) error {
		if err := s.writeVersion(tx, version); err != nil {
			return err
		}
		for _, p := range s.files.pairs {
			c, made := s.changes[p.change]
			switch {
			case p.version > version && made:
				s.report.Notes = append(s.report.Notes, fmt.Sprintf("%s is above version %d but in place; before it runs again: "+
					"SELECT ml.revert_change('%s'), or ml.forget_change where it was undone by hand", p.change, version, p.change))
			case p.version <= version && made:
				if _, err := db.New(tx).AcceptChange(s.ctx, db.AcceptChangeParams{Name: p.change, Checksum: p.checksum}); err != nil {
					return err
				}
				if c.Checksum != p.checksum {
					s.report.Notes = append(s.report.Notes, p.up+" counts as what ran, as it is now")
				}
			}
		}
		s.report.To = version
		return nil
	}))
}
