package report

import (
	_ "embed"
	"html/template"
	"io"
	"time"
)

//go:embed page.html
var pageText string

// tile is one number at the top of the page.
type tile struct{ Value, Name string }

type page struct {
	*Data
	Tiles  []tile
	Charts []chart
}

// Write makes the page.
func Write(w io.Writer, d *Data) error {
	drawn, err := d.charts()
	if err != nil {
		return err
	}
	p := page{Data: d, Charts: drawn, Tiles: []tile{
		{count(float64(d.Totals.Predictions)), "predictions"},
		{count(float64(d.Totals.Versions)), plural(d.Totals.Versions, "version")},
		{count(float64(d.Totals.Callers)), plural(d.Totals.Callers, "caller")},
	}}
	if n := len(d.Latency); n > 0 {
		p.Tiles = append(p.Tiles, tile{milliseconds(d.Latency[n-1].Median), "median latency, last day"})
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"time": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") },
		"count": func(n int64) string {
			return count(float64(n))
		},
		"number":  number,
		"percent": func(v float64) string { return percent(100 * v) },
		"rows": func(n *int64) string {
			if n == nil {
				return "–"
			}
			return count(float64(*n))
		},
		"rate": func(v *float64) string {
			if v == nil {
				return "–"
			}
			return count(float64(int64(*v)))
		},
	}).Parse(pageText)
	if err != nil {
		return err
	}
	return t.Execute(w, p)
}

func plural(n int64, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
