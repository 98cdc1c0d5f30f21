package postgres

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// MinServerMajor is the oldest PostgreSQL that Rowcast runs on.
const MinServerMajor = 15

// Server is a PostgreSQL installation of this machine.
type Server struct {
	BinDir  string // absolute folder of postgres and initdb
	Version string // as in "15.14"
	Major   int    // as in 15
}

// Psql returns the path of a psql: the one beside the server, else the first on PATH, else "". The server binaries that come as a package for
// embedding bring none.
func (s Server) Psql() string {
	if p := filepath.Join(s.BinDir, "psql"); executable(p) {
		return p
	}
	if p, err := exec.LookPath("psql"); err == nil {
		return p
	}
	return ""
}

// FindServer looks for a PostgreSQL server, 15 or newer and with the contrib module dblink: the folder in ROWCAST_PG_BIN (which must then do),
// .cache/postgres/bin beside the executable or in the source tree, the newest of /usr/lib/postgresql/*/bin, and PATH, in this order.
// Without one the error is CodeUnavailable and its detail says what was found and why it does not do.
func FindServer(ctx context.Context) (Server, error) {
	if dir := os.Getenv("ROWCAST_PG_BIN"); dir != "" {
		s, err := inspectServer(ctx, dir)
		if err != nil {
			return Server{}, rowcast.Errorf(rowcast.CodeUnavailable, "ROWCAST_PG_BIN does not name a PostgreSQL server that can be used").
				WithDetail("%v", err)
		}
		return s, nil
	}
	var refused []string
	for _, dir := range serverDirs() {
		if !executable(filepath.Join(dir, "postgres")) {
			continue
		}
		s, err := inspectServer(ctx, dir)
		if err == nil {
			return s, nil
		}
		refused = append(refused, err.Error())
	}
	e := rowcast.Errorf(rowcast.CodeUnavailable, "no PostgreSQL server %d or newer with dblink on this machine", MinServerMajor).
		WithHint("`make deps` fetches one; on Debian: apt-get install postgresql postgresql-contrib; or set DATABASE_URL to a database that runs.")
	if len(refused) > 0 {
		e.Detail = strings.Join(refused, "; ")
	}
	return Server{}, e
}

func serverDirs() []string {
	var dirs []string
	for _, root := range cacheRoots() {
		dirs = append(dirs, filepath.Join(root, ".cache", "postgres", "bin"))
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	sort.Slice(installed, func(i, j int) bool { return dirMajor(installed[i]) > dirMajor(installed[j]) })
	dirs = append(dirs, installed...)
	if p, err := exec.LookPath("postgres"); err == nil {
		// PATH often holds a link; initdb and the share folder lie beside what it points to.
		if target, err := filepath.EvalSymlinks(p); err == nil {
			p = target
		}
		dirs = append(dirs, filepath.Dir(p))
	}
	return dirs
}

// cacheRoots are the folders whose .cache may hold what `make deps` fetched: the one above the executable's, and the source tree around the
// working directory.
func cacheRoots() []string {
	var roots []string
	if exe, err := os.Executable(); err == nil {
		roots = append(roots, filepath.Dir(filepath.Dir(exe)))
	}
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return append(roots, dir)
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return roots
}

func dirMajor(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	return n
}

// inspectServer runs `postgres --version` in dir and looks for initdb and dblink. Its errors are for a detail: they name dir and the reason.
func inspectServer(ctx context.Context, dir string) (Server, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Server{}, err
	}
	for _, name := range []string{"postgres", "initdb"} {
		if !executable(filepath.Join(dir, name)) {
			return Server{}, fmt.Errorf("%s has no %s", dir, name)
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Server{}, fmt.Errorf("%s/postgres --version: %w", dir, err)
	}
	s := Server{BinDir: dir}
	m := regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`).FindStringSubmatch(string(out))
	if m == nil {
		return Server{}, fmt.Errorf("%s/postgres --version says %q", dir, strings.TrimSpace(string(out)))
	}
	s.Version = m[1]
	s.Major, _ = strconv.Atoi(m[2])
	if s.Major < MinServerMajor {
		return Server{}, fmt.Errorf("%s is PostgreSQL %s", dir, s.Version)
	}
	share := shareDir(ctx, s)
	if share != "" {
		if _, err := os.Stat(filepath.Join(share, "extension", "dblink.control")); err != nil {
			return Server{}, fmt.Errorf("%s (PostgreSQL %s) comes without the contrib module dblink", dir, s.Version)
		}
	}
	return s, nil
}

// shareDir returns the folder whose extension/ holds the control files, or "" where it cannot be told.
func shareDir(ctx context.Context, s Server) string {
	if p := filepath.Join(s.BinDir, "pg_config"); executable(p) {
		if out, err := exec.CommandContext(ctx, p, "--sharedir").Output(); err == nil {
			if dir := strings.TrimSpace(string(out)); isDir(filepath.Join(dir, "extension")) {
				return dir
			}
		}
	}
	for _, dir := range []string{
		filepath.Join(s.BinDir, "..", "share", "postgresql"),
		filepath.Join(s.BinDir, "..", "share"),
		fmt.Sprintf("/usr/share/postgresql/%d", s.Major),
		"/usr/share/pgsql",
	} {
		if isDir(filepath.Join(dir, "extension")) {
			return dir
		}
	}
	return ""
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
