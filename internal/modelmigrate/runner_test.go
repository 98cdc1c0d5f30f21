package modelmigrate_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/modelmigrate"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// problem is the *rowcast.Error in err.
func problem(t testing.TB, err error) *rowcast.Error {
	t.Helper()
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	require.NotEqual(t, rowcast.CodeInternal, e.Code, "%v", err)
	return e
}

func TestAFailingStepLeavesNothingBehind(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	s.up(t, dir, -1)
	before := image(t, conn, true)
	add(t, dir, "iris_v2", demo("iris_v2"), "iris", promoted)
	bad := write(t, dir, "bad", "SELECT ml.set_alias('iris', 'canary', 2)", "SELECT ml.promote('iris', 1)", "-- a comment\nSELECT ml.promote('iris', 9)")

	_, err := s.runner(t, dir).Goto(context.Background(), 2)
	require.NoError(t, err)
	middle := image(t, conn, true)
	report, err := s.runner(t, dir).Up(context.Background(), -1)
	e := problem(t, err)
	require.Equal(t, `000003_bad.up.sql:9: model "iris" has no version 9`, e.Message)
	require.Equal(t, "It has version 1, 2.", e.Hint)
	require.Equal(t, 2, report.To)
	same(t, middle, image(t, conn, true), "after the failure")
	s.down(t, dir, 1)
	same(t, before, image(t, conn, true), "one down")

	// The same where the sidecar refuses the file, and where SQL cannot be parsed.
	notAModel := filepath.Join(t.TempDir(), "broken.onnx")
	require.NoError(t, os.WriteFile(notAModel, []byte("no model"), 0o644))
	other := t.TempDir()
	_, err = modelmigrate.Create(context.Background(), modelmigrate.NewOptions{Dir: other, Name: "broken", File: notAModel})
	require.NoError(t, err)
	own := func(o *modelmigrate.Options) { o.Table = "public.other_migrations" }
	_, err = s.runner(t, other, own).Up(context.Background(), -1)
	require.Contains(t, problem(t, err).Message, "000001_broken.up.sql:5: ")
	same(t, before, image(t, conn, true), "after the refusal")

	require.NoError(t, os.WriteFile(bad.Up, []byte("SELECT ml.begin_change('000003_bad');\nSELECT ml.promote('iris',, 1);\n"), 0o644))
	s.up(t, dir, 1)
	_, err = s.runner(t, dir).Up(context.Background(), -1)
	require.Contains(t, problem(t, err).Message, "000003_bad.up.sql:2: syntax error")
}

func TestAFileThatWasEditedAfterItRanIsNoticed(t *testing.T) {
	s := serve(t)
	ctx := context.Background()
	dir := t.TempDir()
	first := add(t, dir, "iris", demo("iris"), "iris")
	write(t, dir, "alias", "SELECT ml.set_alias('iris', 'canary', 1)")
	write(t, dir, "alias_2", "SELECT ml.set_alias('iris', 'b', 1)")
	s.up(t, dir, 2)
	text, err := os.ReadFile(first.Up)
	require.NoError(t, err)
	// git may write other line ends.
	require.NoError(t, os.WriteFile(first.Up, []byte(strings.ReplaceAll(string(text), "\n", "\r\n")), 0o644))
	status, err := s.runner(t, dir).Status(ctx)
	require.NoError(t, err)
	require.Equal(t, modelmigrate.StateApplied, status.Migrations[0].State)

	require.NoError(t, os.WriteFile(first.Up, append(text, "-- looks better now\n"...), 0o644))
	for name, f := range map[string]func() error{
		"up":   func() error { _, err := s.runner(t, dir).Up(ctx, -1); return err },
		"goto": func() error { _, err := s.runner(t, dir).Goto(ctx, 3); return err },
		"plan": func() error { _, err := s.runner(t, dir).Plan(ctx, -1); return err },
	} {
		e := problem(t, f())
		require.Equal(t, "000001_iris.up.sql was edited after it ran", e.Message, name)
		require.Contains(t, e.Hint, "rowcast model migration force 2")
	}
	status, err = s.runner(t, dir).Status(ctx)
	require.NoError(t, err)
	require.Equal(t, modelmigrate.StateEdited, status.Migrations[0].State)
	require.Equal(t, modelmigrate.StateApplied, status.Migrations[1].State)
	require.Equal(t, modelmigrate.StatePending, status.Migrations[2].State)
	s.down(t, dir, 1) // the way down goes by the journal
	report, err := s.runner(t, dir).Force(ctx, 1)
	require.NoError(t, err)
	require.Equal(t, []string{"000001_iris.up.sql counts as what ran, as it is now"}, report.Notes)
	require.Equal(t, 3, s.up(t, dir, -1).To)
}

func TestFilesThatMakeNoSenseAreRefused(t *testing.T) {
	s := serve(t)
	ctx := context.Background()
	cases := map[string]struct {
		files   map[string]string
		message string
	}{
		"a transaction": {
			map[string]string{"000001_a.up.sql": "SELECT ml.begin_change('000001_a');\nSELECT ';'; /* ; */\nCOMMIT;"},
			"000001_a.up.sql:3: COMMIT has no place in a model migration",
		},
		"a renamed file": {
			map[string]string{"000002_a.up.sql": "SELECT ml.begin_change('000001_a');"},
			"000002_a.up.sql calls the change '000001_a', not '000002_a'",
		},
		"two of one number": {
			map[string]string{"000001_a.up.sql": "", "000001_b.up.sql": ""},
			"000001_a.up.sql and 000001_b.up.sql have the same number",
		},
		"no number": {map[string]string{"a.sql": ""}, "a.sql is not named like 000001_name.up.sql"},
		"no way up": {map[string]string{"000001_a.down.sql": ""}, "000001_a.down.sql has no .up.sql beside it"},
		"an artifact that is nowhere": {
			map[string]string{"000001_a.up.sql": "SELECT ml.register_artifact('a', '" + strings.Repeat("0", 64) + "');"},
			"000001_a.up.sql needs the artifact with SHA-256 " + strings.Repeat("0", 64) + ", which is nowhere",
		},
		"a git-lfs pointer": {
			map[string]string{
				"000001_a.up.sql": "SELECT ml.register_artifact('a', '" + strings.Repeat("1", 64) + "');",
				"a.onnx":          "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("1", 64) + "\nsize 12345\n",
			},
			"which is a git-lfs pointer",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
			}
			_, err := s.runner(t, dir).Up(ctx, -1)
			e := problem(t, err)
			require.Contains(t, e.Message, c.message)
			require.NotEmpty(t, e.Hint)
		})
	}
	_, err := s.runner(t, filepath.Join(t.TempDir(), "nowhere")).Up(ctx, -1)
	require.Contains(t, problem(t, err).Hint, "rowcast model migration new")
	_, err = modelmigrate.New(s.URL, modelmigrate.Options{Table: `a."b`})
	require.Equal(t, rowcast.CodeInvalidArgument, rowcast.CodeOf(err))
	version, _, err := s.runner(t, t.TempDir()).Version(ctx)
	require.NoError(t, err)
	require.Zero(t, version)
}

// A folder that lacks the migration that the database is at is somebody's old branch.
func TestADatabaseThatIsAheadOfTheFolderIsLeftAlone(t *testing.T) {
	s := serve(t)
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	second := write(t, dir, "alias", "SELECT ml.set_alias('iris', 'canary', 1)")
	s.up(t, dir, -1)
	require.NoError(t, os.Remove(second.Up))
	require.NoError(t, os.Remove(second.Down))
	for _, n := range []int{-1, 1} {
		_, err := s.runner(t, dir).Down(context.Background(), n)
		require.Equal(t, "the database is at version 2, but "+dir+" has no migration 2", problem(t, err).Message)
	}
	_, err := s.runner(t, dir).Up(context.Background(), -1)
	require.Contains(t, problem(t, err).Message, "the database is at version 2")
	status, err := s.runner(t, dir).Status(context.Background())
	require.NoError(t, err)
	require.Equal(t, modelmigrate.StateNoFile, status.Migrations[1].State)
}

func TestEightRunnersAtOnceRunEachStepOnce(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	add(t, dir, "iris_v2", demo("iris_v2"), "iris", promoted)
	for i := range 4 {
		write(t, dir, fmt.Sprintf("alias_%d", i), fmt.Sprintf("SELECT ml.set_alias('iris', 'a%d', 2)", i))
	}
	const runners, steps = 8, 6
	together := func(run func(*modelmigrate.Runner) (modelmigrate.Report, error)) []modelmigrate.Step {
		var applied []modelmigrate.Step
		var mu sync.Mutex
		var wg sync.WaitGroup
		errs := make([]error, runners)
		for i := range runners {
			r := s.runner(t, dir, func(o *modelmigrate.Options) {
				o.Applied = func(step modelmigrate.Step) {
					mu.Lock()
					defer mu.Unlock()
					applied = append(applied, step)
				}
			})
			wg.Go(func() { _, errs[i] = run(r) })
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		return applied
	}
	up := together(func(r *modelmigrate.Runner) (modelmigrate.Report, error) { return r.Up(context.Background(), -1) })
	require.Len(t, up, steps)
	for i, step := range up {
		require.Equal(t, i+1, step.Version)
		require.True(t, step.Up)
	}
	require.Equal(t, int64(6), one[int64](t, conn, "SELECT count(*) FROM ml.alias_history"))
	down := together(func(r *modelmigrate.Runner) (modelmigrate.Report, error) { return r.Goto(context.Background(), 0) })
	require.Len(t, down, steps)
	require.Equal(t, int64(0), one[int64](t, conn, "SELECT count(*) FROM ml.models"))
}

// Registrars of one model, half of them runners with a folder and a version table of their own: numbers are dense and none is lost.
func TestEightRegistrarsOfOneModelGetDenseNumbers(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	file, err := os.ReadFile(demo("iris"))
	require.NoError(t, err)
	const registrars, each = 8, 3
	var wg sync.WaitGroup
	errs := make([]error, registrars)
	for i := range registrars {
		own := s.Conn(t)
		dir := t.TempDir()
		for n := range each {
			add(t, dir, fmt.Sprintf("iris_%d", n), demo("iris"), "iris")
		}
		// Each change has a name of its own: the folders' would be the same.
		for _, f := range must(filepath.Glob(filepath.Join(dir, "0*.sql"))) {
			text := must(os.ReadFile(f))
			base := filepath.Base(f)
			renamed := fmt.Sprintf("%s_r%d_%s", base[:6], i, base[7:])
			old, name := strings.SplitN(base, ".", 2)[0], strings.SplitN(renamed, ".", 2)[0]
			require.NoError(t, os.WriteFile(filepath.Join(dir, renamed), []byte(strings.ReplaceAll(string(text), old, name)), 0o644))
			require.NoError(t, os.Remove(f))
		}
		r := s.runner(t, dir, func(o *modelmigrate.Options) { o.Table = fmt.Sprintf("public.models_%d", i) })
		wg.Go(func() {
			if i%2 == 0 {
				_, errs[i] = r.Up(context.Background(), -1)
				return
			}
			for range each {
				if _, err := own.Exec(context.Background(), "SELECT ml.register_model('iris', $1)", file); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		require.NoError(t, err, "registrar %d", i)
	}
	var numbers []int32
	for n := range int32(registrars * each) {
		numbers = append(numbers, n+1)
	}
	require.Equal(t, numbers, one[[]int32](t, conn, "SELECT array_agg(version ORDER BY version) FROM ml.versions WHERE model = 'iris'"))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
