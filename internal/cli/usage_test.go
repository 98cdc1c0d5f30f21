package cli_test

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{}, {"help"}, {"--help"}, {"model"}, {"model", "register", "--help"}, {"dev", "--help"}, {"help", "migrate", "up"},
		{"score", "--help"}, {"job"}, {"job", "watch", "--help"}, {"schedule"}, {"schedule", "add", "--help"},
	} {
		status, out, errOut := rowcast(args...)
		require.Zero(t, status, "%v", args)
		require.Empty(t, errOut)
		require.Contains(t, out, "Usage:", "%v", args)
	}
	status, out, _ := rowcast("--version")
	require.Zero(t, status)
	require.Equal(t, "rowcast version test\n", out)
}

// A command line that makes no sense ends with 2, before the database is looked for or without changing it.
func TestUsageErrors(t *testing.T) {
	db := database{pgtest.New(t)}
	for line, says := range map[string]string{
		"bogus":                              `unknown command "bogus" for "rowcast"`,
		"model bogus":                        `unknown command "bogus" for "rowcast model"`,
		"migrate bogus":                      `unknown command "bogus" for "rowcast migrate"`,
		"gateway bogus":                      `unknown command "bogus" for "rowcast gateway"`,
		"model list extra":                   `unknown command "extra" for "rowcast model list"`,
		"model list --bogus":                 "unknown flag: --bogus",
		"model promote iris":                 "accepts 2 arg(s), received 1",
		"model promote iris two":             `VERSION must be a whole number of at least 1, not "two"`,
		"model promote iris 0":               `VERSION must be a whole number of at least 1, not "0"`,
		"model alias iris challenger":        "which version should iris@challenger be?",
		"model drop iris":                    "drop all versions of iris?",
		"model drop iris@challenger":         `"iris@challenger" names no version`,
		"model release iris":                 "which version of iris?",
		"model register":                     "accepts between 1 and 2 arg(s), received 0",
		"model download":                     "accepts between 1 and 2 arg(s), received 0",
		"model grant iris":                   "accepts 2 arg(s), received 1",
		"job bogus":                          `unknown command "bogus" for "rowcast job"`,
		"job show":                           "accepts 1 arg(s), received 0",
		"job watch twelve":                   `ID must be a whole number of at least 1, not "twelve"`,
		"job list --state begun":             `--state "begun" is none of a job`,
		"job cancel 0":                       `ID must be a whole number of at least 1, not "0"`,
		"schedule bogus":                     `unknown command "bogus" for "rowcast schedule"`,
		"schedule add nightly":               "accepts 3 arg(s), received 1",
		"schedule add n @daily iris":         "--source is missing",
		"score":                              "accepts 1 arg(s), received 0",
		"score iris":                         "--source is missing",
		"score iris --source iris":           "--target is missing",
		"score iris --source i --target t":   "--key is missing",
		"score iris --bogus":                 "unknown flag: --bogus",
		"migrate down":                       "accepts 1 arg(s), received 0",
		"migrate down 0":                     `N must be a whole number of at least 1, not "0"`,
		"migrate goto latest":                `VERSION must be a whole number of at least 1, not "latest"`,
		"migrate up --gateway nonsense":      `"nonsense" is no gateway address`,
		"migrate up --gateway 127.0.0.1:0":   `"127.0.0.1:0" is no gateway address`,
		"migrate up --gateway /run/rowcast":  `"/run/rowcast" is no gateway address`,
		"migrate up --gateway a:1 --gateway": "flag needs an argument: --gateway",
	} {
		t.Run(line, func(t *testing.T) {
			args := strings.Fields(line)
			status, out, errOut := rowcast(append([]string{"--database-url", db.URL}, args...)...)
			require.Equal(t, 2, status, errOut)
			require.Empty(t, out)
			require.True(t, strings.HasPrefix(errOut, "rowcast: "+says+"\n"), errOut)
			require.Contains(t, errOut, "\n   usage: rowcast")
			require.Contains(t, errOut, "--help\n")
		})
	}
	for flags, says := range map[string]string{
		"--replace --append":                 "--replace and --append contradict each other",
		"--replace --new-rows":               "--replace contradicts --new-rows and --since",
		"--replace --since updated_at":       "--replace contradicts --new-rows and --since",
		"--on-error ignore":                  `--on-error must be stop or skip, not "ignore"`,
		"--chunk-rows -1":                    "--chunk-rows must be at least 1000, not -1",
		"--chunk-rows 999":                   "--chunk-rows must be at least 1000, not 999",
		"--chunk-rows many":                  `invalid argument "many" for "--chunk-rows" flag`,
		"--json --detach --replace --append": "--replace and --append contradict each other",
	} {
		require.Contains(t, db.fails(t, 2, strings.Fields("score iris --source i --target t --key id "+flags)...), "rowcast: "+says, flags)
	}
	require.Contains(t, db.fails(t, 1, "migrate", "goto", "99"), "there is no migration 99, the latest is "+latest(t))
}

func TestADatabaseThatIsDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	for _, line := range []string{
		"model list", "model list --json", "model show iris", "model promote iris 1", "model register iris " + demo("iris", "model.onnx"),
		"migrate up", "migrate down all", "migrate version", "gateway rotate",
		"score iris --source iris --target scores --key id", "job list", "job watch 1", "schedule list", "schedule remove nightly",
	} {
		status, out, errOut := rowcast(append(strings.Fields(line), "--database-url", "postgres://me:secret@"+address+"/shop")...)
		require.Equal(t, 1, status, line)
		require.Empty(t, out)
		require.Contains(t, errOut, "rowcast: cannot connect to PostgreSQL at "+address)
		require.Contains(t, errOut, "connection refused")
		require.Contains(t, errOut, "hint: Start PostgreSQL, or set DATABASE_URL")
		require.NotContains(t, errOut, "secret")
		require.NotContains(t, errOut, "usage:")
	}
	status, _, errOut := rowcast("model", "list", "--database-url", "postgres://me:secret@[::1/shop")
	require.Equal(t, 1, status)
	require.Contains(t, errOut, "the database URL makes no sense")
	require.NotContains(t, errOut, "secret")
}

func TestADatabaseWithoutRowcast(t *testing.T) {
	db := database{pgtest.NewEmpty(t)}
	for _, line := range []string{"model list", "model promote iris 1", "model register iris " + demo("iris", "model.onnx"), "gateway rotate",
		"score iris --source iris --target scores --key id", "job list", "job cancel 1", "schedule list",
	} {
		require.Contains(t, db.fails(t, 1, strings.Fields(line)...), "rowcast migrate up", line)
	}
	require.Equal(t, "version 0 of "+latest(t)+"\n", db.does(t, "migrate", "version"))
	out := db.does(t, "migrate", "up")
	require.Contains(t, out, "schema from version 0 to "+latest(t)+"\nSQL functions replaced\n")
	require.Contains(t, out, "search_path of database "+db.Name+" is now")
	require.Equal(t, "schema at version "+latest(t)+" already\nSQL functions replaced\n", db.does(t, "migrate", "up"))
	require.Contains(t, db.does(t, "model", "list"), "No models yet")
	// No sidecar: what registers says so and stores nothing.
	e := db.fails(t, 1, "model", "register", demo("iris", "model.onnx"))
	require.Contains(t, e, "is not running")
	require.Contains(t, e, "rowcast serve")
	require.Zero(t, one[int](t, db, "SELECT count(*)::integer FROM ml_private.artifact"))
	require.Contains(t, db.does(t, "migrate", "down", "all"), "schema from version "+latest(t)+" to 0\n")
	gone := database{&pgtest.Database{URL: strings.Replace(db.URL, db.Name, "no_such_database", 1)}}
	require.Contains(t, gone.fails(t, 1, "model", "list"), "createdb no_such_database")
}

func TestTheDatabaseComesFromTheFlagElseTheEnvironment(t *testing.T) {
	named, other := database{pgtest.New(t)}, database{pgtest.NewEmpty(t)}
	u, err := url.Parse(named.URL)
	require.NoError(t, err)
	host, port := u.Query().Get("host"), u.Query().Get("port")
	if host == "" {
		host, port = u.Hostname(), u.Port()
	}
	password, _ := u.User.Password()
	list := func(args ...string) (int, string) {
		status, out, errOut := rowcast(append([]string{"migrate", "version"}, args...)...)
		return status, out + errOut
	}
	for name, value := range map[string]string{"PGHOST": host, "PGPORT": port, "PGUSER": u.User.Username(), "PGPASSWORD": password, "PGDATABASE": named.Name} {
		t.Setenv(name, value)
	}
	_, out := list()
	require.Equal(t, "version "+latest(t)+" of "+latest(t)+"\n", out, "the PG* variables")
	t.Setenv("DATABASE_URL", other.URL)
	_, out = list()
	require.Equal(t, "version 0 of "+latest(t)+"\n", out, "DATABASE_URL wins over them")
	_, out = list("--database-url", named.URL)
	require.Equal(t, "version "+latest(t)+" of "+latest(t)+"\n", out, "the flag wins over both")
}
