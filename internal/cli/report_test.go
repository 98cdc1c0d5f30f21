package cli_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// contained makes sure that a page is well formed and refers to nothing outside itself.
func contained(t *testing.T, page string) {
	t.Helper()
	require.NotRegexp(t, `(?i)<script|<link|<img|<iframe|@import|url\(`, page)
	for _, address := range regexp.MustCompile(`https?://[^"'\s<]+`).FindAllString(page, -1) {
		require.True(t, strings.HasPrefix(address, "http://www.w3.org/"), "%s: only names of XML namespaces", address)
	}
	for i, part := range strings.Split(page, "<svg")[1:] {
		svg, _, found := strings.Cut("<svg"+part, "</svg>")
		require.True(t, found)
		d := xml.NewDecoder(strings.NewReader(svg + "</svg>"))
		for {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err, "drawing %d", i)
		}
	}
}

func TestAReportShowsWhatWasPredicted(t *testing.T) {
	db := served(t)
	db.does(t, "model", "register", demo("iris", "model.onnx"))
	db.does(t, "model", "register", "iris", demo("iris_v2", "model.onnx"))
	db.does(t, "model", "register", demo("diabetes", "model.onnx"))
	path := filepath.Join(t.TempDir(), "iris.html")
	read := func() string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		contained(t, string(text))
		return string(text)
	}
	require.Contains(t, db.does(t, "report", "iris", "-o", path), "iris.html: 0 predictions since ")
	page := read()
	require.Contains(t, page, "SELECT ml.set_log_policy('iris', 'all');")
	require.NotContains(t, page, "<svg")

	db.Exec(t, `SELECT ml.set_log_policy('iris', 'transactional'), ml.set_log_policy('diabetes', 'transactional');
		SELECT predict_label('iris@' || 1 + g % 2, ARRAY[5.1 + g * 0.01, 3.5, 1.4 + g * 0.05, 0.2 + g * 0.02]) FROM generate_series(1, 100) g;
		SELECT predict('diabetes', array_fill(g * 0.001, ARRAY[10])) FROM generate_series(-50, 50) g;
		UPDATE ml_private.prediction SET at = at - interval '1 day' * (id % 3)`)
	require.Contains(t, db.does(t, "report", "iris", "-o", path), "iris.html: 100 predictions since ")
	page = read()
	for _, part := range []string{"version 1", "version 2", "setosa", "virginica", "Predictions a day", "Labels by version", "Labels by day", "Latency by day", "<b>100</b>",
		"prefers-color-scheme: dark", "Last scoring jobs"} {
		require.Contains(t, page, part)
	}
	require.Equal(t, 2*4, strings.Count(page, "<svg"), "four drawings in two colourings")
	contained(t, db.does(t, "report", "diabetes", "-o", "-"))
	require.Contains(t, db.does(t, "report", "diabetes", "-o", "-"), "Values by version")

	var data struct {
		Model  string `json:"model"`
		Totals struct {
			Predictions int `json:"predictions"`
		} `json:"totals"`
		Days []struct {
			Day         string `json:"day"`
			Version     int    `json:"version"`
			Predictions int    `json:"predictions"`
		} `json:"days"`
		Histogram []struct {
			Predictions int `json:"predictions"`
		} `json:"histogram"`
	}
	require.NoError(t, json.Unmarshal([]byte(db.does(t, "report", "diabetes", "--json", "--days", "2")), &data))
	require.Equal(t, one[int](t, db, "SELECT count(*) FROM ml.predictions WHERE model = 'diabetes' AND at >= date_trunc('day', now(), 'UTC') - interval '1 day'"), data.Totals.Predictions)
	sum, bars := 0, 0
	for _, d := range data.Days {
		require.NotEmpty(t, d.Day)
		require.Equal(t, 1, d.Version)
		sum += d.Predictions
	}
	for _, b := range data.Histogram {
		bars += b.Predictions
	}
	require.Equal(t, []int{data.Totals.Predictions, data.Totals.Predictions}, []int{sum, bars})
	require.LessOrEqual(t, data.Days[len(data.Days)-1].Day, time.Now().UTC().Format(time.DateOnly))

	require.Contains(t, db.fails(t, 1, "report", "iriss"), `there is no model "iriss"`)
	require.Contains(t, db.fails(t, 2, "report", "iris", "--days", "0"), "--days is 0")
	require.Contains(t, db.fails(t, 1, "report", "iris", "-o", filepath.Join(t.TempDir(), "missing", "iris.html")), "cannot write")
}
