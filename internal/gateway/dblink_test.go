package gateway

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres"
)

const harness = `
CREATE EXTENSION dblink;
CREATE SERVER gateway FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '%s', port '%d', dbname 'any');
CREATE USER MAPPING FOR CURRENT_USER SERVER gateway OPTIONS (user 'rowcast', password '%s');
CREATE FUNCTION seal(body text) RETURNS text LANGUAGE sql AS $$
  SELECT left(encode(sha256('\x%s'::bytea || convert_to(body, 'UTF8')), 'hex'), 32) || ' ' || body $$;
CREATE FUNCTION tag(body text, fail boolean DEFAULT false) RETURNS text LANGUAGE sql AS $$ SELECT dblink_exec('rowcast', seal(body), fail) $$;
CREATE FUNCTION answer(body text, fail boolean DEFAULT false, OUT status text, OUT value text) LANGUAGE sql AS $$
  SELECT * FROM dblink('rowcast', seal(body), fail) AS t(status text, value text) $$;
SELECT dblink_connect('rowcast', 'gateway');
`

func TestExplore(t *testing.T) {
	for _, bin := range []string{"/usr/lib/postgresql/15/bin", "/work/main/.cache/postgres-18/bin"} {
		t.Run(bin, func(t *testing.T) {
			c, err := postgres.StartCluster(context.Background(), postgres.ClusterOptions{BinDir: bin})
			require.NoError(t, err)
			defer c.Stop(context.Background())
			dir, _ := os.MkdirTemp("", "gw")
			defer os.RemoveAll(dir)
			os.Chmod(dir, 0o755)
			l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.7000"))
			require.NoError(t, err)
			os.Chmod(filepath.Join(dir, ".s.PGSQL.7000"), 0o777)
			g, engine, _ := start(t, func(o *Options) { o.Listeners = append(o.Listeners, l) })
			_ = engine
			_ = g
			ctx := context.Background()
			conn, err := pgx.Connect(ctx, c.URL("postgres"))
			require.NoError(t, err)
			config := conn.Config()
			_ = config
			show := func(sql string, args ...any) {
				t.Helper()
				before := time.Now()
				rows, err := conn.Query(ctx, sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
				var out []string
				if err == nil {
					for rows.Next() {
						v, _ := rows.Values()
						out = append(out, fmt.Sprint(v))
					}
					err = rows.Err()
				}
				t.Logf("%-60s %6dms %v err=%v", sql, time.Since(before).Milliseconds(), out, err)
			}
			_, err = conn.Exec(ctx, fmt.Sprintf(harness, dir, 7000, secret.Password, hex.EncodeToString(secret.Key)), pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
			show("select version()")
			show("select tag('N')")
			show("select tag('" + predict("echo 1.5") + "')")
			show("select answer('P " + spec + " churn@3 - jecho {1,2}')")
			show("select tag('" + predict("refuse") + "')")
			show("select tag('E', true)")
			show("select answer('P " + spec + " churn@3 - jrefuse')")
			show("select tag('E', true)")
			show("select tag('E', false)")
			show("set statement_timeout='40ms'")
			show("select tag('" + predict("sleep 10s") + "'), pg_sleep(0.01)")
			show("set statement_timeout=0")
			show("select dblink_is_busy('rowcast'), dblink_error_message('rowcast')")
			show("select tag('" + predict("echo 2") + "')")
			show("select tag('" + predict("echo 3") + "')")
			show("select dblink_disconnect('rowcast')")
			show("select dblink_connect('rowcast', 'gateway')")
			show("set statement_timeout='40ms'")
			show("select tag('" + predict("sleep 60ms") + "'), pg_sleep(0.01)")
			show("set statement_timeout=0")
			show("select pg_sleep(0.2)")
			show("select dblink_is_busy('rowcast'), dblink_error_message('rowcast')")
			show("select answer('P " + spec + " churn@3 - jecho {1,2}')")
			show("select answer('P " + spec + " churn@3 - jecho {1,3}')")
			show("select tag('" + predict("echo 3") + "')")
			show("select dblink_disconnect('rowcast')")
			show("select dblink_connect('rowcast', 'gateway')")
			show("set statement_timeout='40ms'")
			show("select answer('P " + spec + " churn@3 - jsleep 60ms'), pg_sleep(0.01)")
			show("set statement_timeout=0")
			show("select answer('P " + spec + " churn@3 - jecho {1,2}')")
			show("select tag('" + predict("echo 3") + "')")
			// lost connection
			show("select dblink_disconnect('rowcast')")
			show("select dblink_connect('rowcast', 'gateway')")
			g.each(func(c net.Conn) { c.Close() })
			show("select tag('" + predict("echo 4") + "')")
			show("select tag('" + predict("echo 4") + "')")
			show("select dblink_disconnect('rowcast')")
			show("select dblink_connect('rowcast', 'gateway')")
			g.each(func(c net.Conn) { c.Close() })
			show("select answer('P " + spec + " churn@3 - jecho {1,2}')")
			show("select answer('P " + spec + " churn@3 - jecho {1,2}')")
			show("select count(*) from dblink('rowcast', 'x', false) as t(a text, b text)")
			show("select dblink_disconnect('rowcast')")
			show("select dblink_connect('rowcast', 'gateway')")
			show("do $$ begin for i in 1..20000 loop perform dblink_exec('rowcast', 'aaaa', false); end loop; end $$") 
			show("do $$ declare s text := seal('N'); begin for i in 1..20000 loop perform dblink_exec('rowcast', s, false); end loop; end $$") 
			show("do $$ declare s text := seal('" + predict("echo 4") + "'); begin for i in 1..20000 loop perform dblink_exec('rowcast', s, false); end loop; end $$") 
			show("do $$ begin for i in 1..100 loop perform dblink_disconnect('rowcast'); perform dblink_connect('rowcast', 'gateway'); end loop; end $$") 
		})
	}
}
