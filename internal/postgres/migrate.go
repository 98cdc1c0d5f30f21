package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/source"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// MigratorOptions says what to install and how.
type MigratorOptions struct {
	Source fs.FS // 000001_name.{up,down}.sql, functions/*.sql: package migrations' Files

	// SetSearchPath puts ml at the end of the database's search_path, so that predict(…) works unqualified. Down to nothing takes it back.
	SetSearchPath bool

	// Where the SQL functions find the sidecar. Left as it is where GatewayHost is empty; a folder means a unix socket.
	GatewayHost string
	GatewayPort int

	Logger *slog.Logger // nil: silent
}

// Migrator installs, updates and removes Rowcast's schemas in one database. Its methods take the same advisory lock, so that any number of
// migrators may run at once. They connect for each call and return *rowcast.Error.
type Migrator struct {
	config *pgx.ConnConfig
	o      MigratorOptions
}

// MigrationReport says what a Migrator's method did.
type MigrationReport struct {
	From, To  int      // version before and after, 0 for nothing installed
	Applied   []string // migration files in the order in which they ran
	Functions int      // files of the SQL API that were replaced
	Notes     []string // what else changed, or could not, for the user to read
}

// MigrationVersion says where a database is.
type MigrationVersion struct {
	Current int  // 0 for nothing installed
	Latest  int  // that this program brings
	Dirty   bool // only after golang-migrate's own program failed on this database
}

// NewMigrator makes a Migrator for the database at url. It does not connect yet.
func NewMigrator(url string, o MigratorOptions) (*Migrator, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the database URL makes no sense").WithDetail("%v", err)
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > 2*defaultConnectTimeout {
		config.ConnectTimeout = defaultConnectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "rowcast migrate"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Migrator{config: config, o: o}, nil
}

// Up brings the database to the latest version, then replaces the SQL API, and sets the search_path and the gateway's address as the options
// say. It runs Preflight first. Each migration is one transaction, the SQL API another; what fails leaves nothing behind, and its error names
// the file and the line.
func (m *Migrator) Up(ctx context.Context) (MigrationReport, error) {
	return m.run(ctx, func(s *migration) error {
		if err := Preflight(ctx, s.conn); err != nil {
			return err
		}
		return s.goTo(s.latest())
	})
}

// Goto migrates up or down to a version. The SQL API is replaced only at the latest one, to which it belongs.
func (m *Migrator) Goto(ctx context.Context, version int) (MigrationReport, error) {
	return m.run(ctx, func(s *migration) error {
		if version != 0 && s.files[version].up == "" {
			return rowcast.Errorf(rowcast.CodeNotFound, "there is no migration %d, the latest is %d", version, s.latest())
		}
		return s.goTo(version)
	})
}

// Down undoes the last n migrations, all where n is negative or more than there are. Undoing the first removes Rowcast with all its models.
func (m *Migrator) Down(ctx context.Context, n int) (MigrationReport, error) {
	if n == 0 {
		return MigrationReport{}, rowcast.Errorf(rowcast.CodeInvalidArgument, "number of migrations to undo is 0")
	}
	return m.run(ctx, func(s *migration) error { return s.goTo(s.below(s.report.From, n)) })
}

// Force records a version without running anything, for a database that was changed by hand.
func (m *Migrator) Force(ctx context.Context, version int) (MigrationReport, error) {
	return m.run(ctx, func(s *migration) error {
		if version != 0 && s.files[version].up == "" {
			return rowcast.Errorf(rowcast.CodeNotFound, "there is no migration %d, the latest is %d", version, s.latest())
		}
		s.forced = true
		return s.record(version)
	})
}

// Version reads where the database is. It changes nothing and works on a standby.
func (m *Migrator) Version(ctx context.Context) (MigrationVersion, error) {
	files, err := migrationFiles(m.o.Source)
	if err != nil {
		return MigrationVersion{}, err
	}
	conn, err := pgx.ConnectConfig(ctx, m.config)
	if err != nil {
		return MigrationVersion{}, Error(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	v := MigrationVersion{Latest: latest(files)}
	v.Current, v.Dirty, err = readVersion(ctx, conn)
	return v, err
}

// run connects, takes the lock, and does the work and what goes with the version it ends at.
func (m *Migrator) run(ctx context.Context, work func(*migration) error) (MigrationReport, error) {
	s := &migration{ctx: ctx, Migrator: m}
	var err error
	if s.files, err = migrationFiles(m.o.Source); err != nil {
		return s.report, err
	}
	if s.conn, err = pgx.ConnectConfig(ctx, m.config); err != nil {
		return s.report, Error(err)
	}
	// Closing the connection gives the lock back, also after a failure in mid-transaction.
	defer s.conn.Close(context.WithoutCancel(ctx))
	if err := s.prepare(); err != nil {
		return s.report, err
	}
	if err := work(s); err != nil {
		return s.report, err
	}
	if s.forced {
		return s.report, nil
	}
	switch s.report.To {
	case s.latest():
		err = s.install()
	case 0:
		err = s.remove()
	}
	return s.report, err
}

// prepare takes the lock, becomes the owner of what is installed and finds out where the database is.
func (s *migration) prepare() error {
	if err := s.lock(); err != nil {
		return err
	}
	if err := s.becomeOwner(); err != nil {
		return err
	}
	version, dirty, err := readVersion(s.ctx, s.conn)
	if err != nil {
		return err
	}
	s.report.From, s.report.To = version, version
	if dirty {
		// Never ours: see driver.Run. The migration that golang-migrate's own program ran was one implicit transaction and left nothing either.
		s.report.Notes = append(s.report.Notes, fmt.Sprintf("version %d was marked dirty; cleared", version))
	}
	if version > s.latest() {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "the database is at version %d, this program knows versions up to %d", version, s.latest()).
			WithHint("Use the newer rowcast that installed it.")
	}
	return nil
}

// lock waits for other migrators of this database.
func (s *migration) lock() error {
	const key = 0x726f7763617374 // "rowcast"
	var free bool
	if err := s.conn.QueryRow(s.ctx, "SELECT pg_try_advisory_lock($1)", int64(key)).Scan(&free); err != nil {
		return Error(err)
	}
	if free {
		return nil
	}
	s.o.Logger.Info("another migration of this database is running; waiting for it")
	_, err := s.conn.Exec(s.ctx, "SELECT pg_advisory_lock($1)", int64(key))
	return Error(err)
}

// becomeOwner takes on the role that owns what is installed, so that a superuser who updates it leaves everything with one owner: the
// functions run as their owner, and the gateway's user mapping is the owner's.
func (s *migration) becomeOwner() error {
	var owner string
	err := s.conn.QueryRow(s.ctx, `SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace
		WHERE nspname = 'ml_private' AND pg_get_userbyid(nspowner) <> current_user`).Scan(&owner)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return Error(err)
	}
	s.owner = owner
	err = setRole(s.ctx, s.conn, owner)
	if rowcast.CodeOf(err) == rowcast.CodeNotPermitted {
		return rowcast.Errorf(rowcast.CodeNotPermitted, "Rowcast in this database belongs to role %s", owner).
			WithHint("Connect as that role; or an administrator runs: GRANT %s TO %s;", pgx.Identifier{owner}.Sanitize(),
				pgx.Identifier{s.config.User}.Sanitize())
	}
	return err
}

func setRole(ctx context.Context, conn *pgx.Conn, role string) error {
	_, err := conn.Exec(ctx, "SET ROLE "+pgx.Identifier{role}.Sanitize())
	return Error(err)
}

// install follows the arrival at the latest version.
func (s *migration) install() error {
	var err error
	if s.report.Functions, err = applyFunctions(s.ctx, s.conn, s.o.Source); err != nil {
		return err
	}
	if s.o.GatewayHost != "" {
		if err := s.setGateway(); err != nil {
			return err
		}
	}
	if s.o.SetSearchPath {
		return s.setSearchPath()
	}
	return nil
}

// remove follows the departure from the first version.
func (s *migration) remove() error {
	_, err := s.conn.Exec(s.ctx, "DROP TABLE IF EXISTS ml_private.schema_migrations")
	if err == nil {
		// Without CASCADE: dblink, or something of the user's, may live there.
		_, err = s.conn.Exec(s.ctx, "DROP SCHEMA IF EXISTS ml_private")
	}
	if err != nil {
		s.report.Notes = append(s.report.Notes, fmt.Sprintf("schema ml_private stays: %v", Error(err)))
	}
	return s.resetSearchPath()
}

// migration is one run of a Migrator: its connection, the files and what has been done.
type migration struct {
	*Migrator
	ctx    context.Context // here because golang-migrate's driver interface has none
	conn   *pgx.Conn
	owner  string // role taken on, "" for the one that logged in
	files  map[int]migrationPair
	report MigrationReport
	forced bool
}

// goTo lets golang-migrate order and run the migrations between here and version.
func (s *migration) goTo(version int) error {
	if version == s.report.From {
		return nil
	}
	if err := ensureVersionTable(s.ctx, s.conn); err != nil {
		return err
	}
	files, err := iofs.New(s.o.Source, ".")
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInternal, "the migrations cannot be read").WithCause(err)
	}
	d, err := s.openDriver()
	if err != nil {
		return err
	}
	m, err := migrate.NewWithInstance("embedded", files, "pgx5", d)
	if err != nil {
		return errors.Join(err, d.Close())
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
		return Error(s.ctx.Err())
	case errors.Is(err, fs.ErrNotExist):
		return rowcast.Errorf(rowcast.CodeNotFound, "a migration between %d and %d is missing", s.report.From, version).WithCause(err)
	}
	return Error(err)
}

func (s *migration) latest() int { return latest(s.files) }

// below returns the version n migrations below version, 0 for none.
func (s *migration) below(version, n int) int {
	if n < 0 {
		return 0
	}
	for ; n > 0 && version > 0; n-- {
		next := 0
		for v := range s.files {
			if v < version && v > next {
				next = v
			}
		}
		version = next
	}
	return version
}

// migrationPair is a migration's file names.
type migrationPair struct{ up, down string }

func migrationFiles(dir fs.FS) (map[int]migrationPair, error) {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "the migrations cannot be read").WithCause(err)
	}
	files := map[int]migrationPair{}
	for _, entry := range entries {
		if entry.IsDir() || path.Ext(entry.Name()) != ".sql" {
			continue
		}
		parsed, err := source.Parse(entry.Name())
		if err != nil {
			return nil, rowcast.Errorf(rowcast.CodeInternal, "%s is not named like 000001_name.up.sql", entry.Name())
		}
		version := int(parsed.Version)
		pair := files[version]
		if parsed.Direction == source.Up {
			pair.up = entry.Name()
		} else {
			pair.down = entry.Name()
		}
		files[version] = pair
	}
	if len(files) == 0 {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "there are no migrations")
	}
	return files, nil
}

func latest(files map[int]migrationPair) int {
	n := 0
	for v := range files {
		n = max(n, v)
	}
	return n
}
