package postgres

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplitStatements(t *testing.T) {
	for _, c := range []struct {
		name, file string
		want       []statement
	}{
		{"nothing", " \n-- only a comment;\n/* and /* a nested; */ one; */ ;;\n", nil},
		{"two", "SELECT 1;\n\nSELECT\n2", []statement{{"SELECT 1", 1}, {"SELECT\n2", 3}}},
		{"comments before belong to nothing", "-- a;\nSELECT 1 -- b;\n;", []statement{{"SELECT 1 -- b;\n", 2}}},
		{"strings", `SELECT 'a;''b;', E'\';', "c;""d;", '\'; SELECT 2`, []statement{{`SELECT 'a;''b;', E'\';', "c;""d;", '\'`, 1}, {"SELECT 2", 1}}},
		{"escapes after a doubled quote", `SELECT E'a''\';b'; SELECT 2`, []statement{{`SELECT E'a''\';b'`, 1}, {"SELECT 2", 1}}},
		{"dollar quotes", "DO $$ a; $x$ b; $$; DO $f$ ; $$ ; $f$; SELECT $1;", []statement{{"DO $$ a; $x$ b; $$", 1}, {"DO $f$ ; $$ ; $f$", 1}, {"SELECT $1", 1}}},
		{"names with dollars", "SELECT a$b; SELECT c$b", []statement{{"SELECT a$b", 1}, {"SELECT c$b", 1}}},
		{
			"bodies in SQL", "CREATE FUNCTION f() BEGIN ATOMIC\nSELECT CASE WHEN true THEN 1 END;\nSELECT 2;\nEND;\nBEGIN; COMMIT; END;",
			[]statement{{"CREATE FUNCTION f() BEGIN ATOMIC\nSELECT CASE WHEN true THEN 1 END;\nSELECT 2;\nEND", 1}, {"BEGIN", 5}, {"COMMIT", 5}, {"END", 5}},
		},
		{"letters", "SELECT 'ü' AS größe;\nSELECT 2", []statement{{"SELECT 'ü' AS größe", 1}, {"SELECT 2", 2}}},
	} {
		require.Equal(t, c.want, splitStatements(c.file), c.name)
	}
}

// Whatever the file holds, the statements are pieces of it, in order, on the lines that they say.
func FuzzSplitStatements(f *testing.F) {
	f.Add("SELECT 1; SELECT $$;$$; /* ; */ 'x")
	f.Add("CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE 1 WHEN 1 THEN 2 END; END; E'\\';")
	f.Add("\u00a0") // no space to PostgreSQL
	f.Fuzz(func(t *testing.T, file string) {
		rest, line := file, 1
		for _, s := range splitStatements(file) {
			i := strings.Index(rest, s.text)
			for i >= 0 && line+strings.Count(rest[:i], "\n") < s.line {
				next := strings.Index(rest[i+1:], s.text)
				if next < 0 {
					break
				}
				i += 1 + next
			}
			if i < 0 || s.text == "" {
				t.Fatalf("%q is not a statement of %q", s.text, file)
			}
			line += strings.Count(rest[:i], "\n")
			if line != s.line {
				t.Fatalf("%q is on line %d, not %d", s.text, line, s.line)
			}
			line += strings.Count(s.text, "\n")
			rest = rest[i+len(s.text):]
		}
	})
}
