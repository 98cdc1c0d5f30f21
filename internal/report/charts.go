package report

import (
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-analyze/charts"
)

const (
	chartWidth  = 720
	chartHeight = 300
)

// mostSeries is how many colours there are; what is beyond is summed up as "other".
const mostSeries = 7

// chart is a drawing in both colourings, and the same in words for those who cannot see it.
type chart struct {
	Title, About string
	Light, Dark  template.HTML
}

// mostLabels is how many labels an axis has room for.
const mostLabels = 7

// palette is a colouring.
type palette struct {
	dark               bool
	ground, text, grid string
	series             []string
	axisColor          string
}

// palettes returns the light and the dark colouring.
func palettes() (light, dark palette) {
	series := []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8a8a"}
	light = palette{ground: "#ffffff", text: "#3c4650", grid: "#e6e9ec", axisColor: "#c3c9cf", series: series}
	dark = palette{dark: true, ground: "#1b2026", text: "#c3ccd6", grid: "#303842", axisColor: "#4a5460", series: slices.Clone(series)}
	dark.series[0] = "#3da5e8" // blue, light enough for a dark ground
	return light, dark
}

func (p palette) theme() charts.ColorPalette {
	series := make([]charts.Color, len(p.series))
	for i, hex := range p.series {
		series[i] = charts.ParseColor(hex)
	}
	return charts.MakeTheme(charts.ThemeOption{
		IsDarkMode: p.dark, AxisStrokeColor: charts.ParseColor(p.axisColor), AxisSplitLineColor: charts.ParseColor(p.grid),
		BackgroundColor: charts.ParseColor(p.ground), TextColor: charts.ParseColor(p.text), SeriesColors: series,
	})
}

// both draws a chart in both colourings.
func both(title, about string, draw func(p *charts.Painter, theme charts.ColorPalette) error) (chart, error) {
	c := chart{Title: title, About: about}
	light, dark := palettes()
	for _, to := range []struct {
		palette palette
		svg     *template.HTML
	}{{light, &c.Light}, {dark, &c.Dark}} {
		theme := to.palette.theme()
		p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: chartWidth, Height: chartHeight, Theme: theme})
		if err := draw(p, theme); err != nil {
			return c, fmt.Errorf("drawing %q: %w", title, err)
		}
		svg, err := p.Bytes()
		if err != nil {
			return c, fmt.Errorf("drawing %q: %w", title, err)
		}
		*to.svg = template.HTML(svg) //nolint:gosec // the library escapes the texts in it
	}
	return c, nil
}

// table is numbers by category and series: days and versions, say.
type table struct {
	categories []string
	series     []string
	values     map[[2]string]float64
}

func (t *table) add(category, series string, v float64) {
	if t.values == nil {
		t.values = map[[2]string]float64{}
	}
	if !slices.Contains(t.categories, category) {
		t.categories = append(t.categories, category)
	}
	if !slices.Contains(t.series, series) {
		t.series = append(t.series, series)
	}
	t.values[[2]string{category, series}] += v
}

// shorten keeps the largest series and sums up the others.
func (t *table) shorten() {
	if len(t.series) <= mostSeries {
		return
	}
	sums := map[string]float64{}
	for k, v := range t.values {
		sums[k[1]] += v
	}
	ranked := slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return cmp.Or(cmp.Compare(sums[b], sums[a]), strings.Compare(a, b)) })
	kept := ranked[:mostSeries-1]
	short := table{categories: t.categories}
	for _, c := range t.categories {
		for _, s := range t.series {
			to := "other"
			if slices.Contains(kept, s) {
				to = s
			}
			if v, ok := t.values[[2]string{c, s}]; ok {
				short.add(c, to, v)
			}
		}
	}
	*t = short
}

// shares turns the numbers of each category into percentages.
func (t *table) shares() {
	sums := map[string]float64{}
	for k, v := range t.values {
		sums[k[0]] += v
	}
	for k := range t.values {
		t.values[k] *= 100 / sums[k[0]]
	}
}

// lists returns the numbers of each series in the order of the categories, absent for those that there are none of.
func (t *table) lists(absent float64) [][]float64 {
	lists := make([][]float64, len(t.series))
	for i, s := range t.series {
		for _, c := range t.categories {
			v, ok := t.values[[2]string{c, s}]
			if !ok {
				v = absent
			}
			lists[i] = append(lists[i], v)
		}
	}
	return lists
}

func legend(names []string, theme charts.ColorPalette) charts.LegendOption {
	return charts.LegendOption{SeriesNames: names, Symbol: charts.SymbolSquare, FontStyle: charts.FontStyle{FontSize: 10, FontColor: theme.GetLegendTextColor()}}
}

// bars draws a bar chart; top is the end of its axis, nil for what the data needs.
func (t *table) bars(title, about string, stacked bool, top *float64, format charts.ValueFormatter) (chart, error) {
	return both(title, about, func(p *charts.Painter, theme charts.ColorPalette) error {
		o := charts.NewBarChartOptionWithData(t.lists(0))
		o.Theme, o.StackSeries, o.ValueFormatter = theme, charts.Ptr(stacked), format
		o.Legend = legend(t.series, theme)
		o.CategoryAxis.Labels, o.CategoryAxis.LabelCount = t.categories, min(len(t.categories), mostLabels)
		o.ValueAxis = []charts.ValueAxisOption{{Min: charts.Ptr(0.0), Max: top}}
		if top != nil {
			o.ValueAxis[0].Unit = *top / 5
		}
		return p.BarChart(o)
	})
}

// lines draws a line chart.
func (t *table) lines(title, about string, fromZero bool, format charts.ValueFormatter) (chart, error) {
	return both(title, about, func(p *charts.Painter, theme charts.ColorPalette) error {
		o := charts.NewLineChartOptionWithData(t.lists(charts.GetNullValue()))
		o.Theme, o.ValueFormatter, o.LineStrokeWidth = theme, format, 2
		o.Legend = legend(t.series, theme)
		o.XAxis.Labels, o.XAxis.LabelCount = t.categories, min(len(t.categories), mostLabels)
		if fromZero {
			o.YAxis = []charts.YAxisOption{{Min: charts.Ptr(0.0)}}
		}
		return p.LineChart(o)
	})
}

func count(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 3, 64) + " M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 3, 64) + " k"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

func percent(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) + " %" }

func number(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }

func milliseconds(v float64) string {
	if v < 1 {
		return strconv.FormatFloat(v*1000, 'g', 3, 64) + " µs"
	}
	return strconv.FormatFloat(v, 'g', 3, 64) + " ms"
}

func versionName(n int32) string { return "version " + strconv.Itoa(int(n)) }

// charts draws what the data has something for.
func (d *Data) charts() ([]chart, error) {
	var list []chart
	var failed error
	add := func(c chart, err error) {
		if failed == nil {
			failed = err
		}
		list = append(list, c)
	}
	days := d.days()
	perDay := table{categories: slices.Clone(days)}
	for _, r := range d.Days {
		perDay.add(d.shortDay(r.Day), versionName(r.Version), float64(r.Predictions))
	}
	perDay.shorten()
	if len(d.Days) > 0 {
		add(perDay.bars("Predictions a day", "Logged predictions of each day (UTC), by version.", true, nil, count))
	}
	if len(d.Labels) > 0 {
		byVersion, byDay := table{}, table{categories: slices.Clone(days)}
		for _, r := range d.Labels {
			byVersion.add(versionName(r.Version), r.Label, float64(r.Predictions))
			byDay.add(d.shortDay(r.Day), r.Label, float64(r.Predictions))
		}
		for _, t := range []*table{&byVersion, &byDay} {
			slices.Sort(t.series)
			t.shorten()
			t.shares()
		}
		slices.Sort(byVersion.categories)
		add(byVersion.bars("Labels by version", "Share of each predicted label in the predictions of a version.", false, nil, percent))
		add(byDay.bars("Labels by day", "Share of each predicted label in the predictions of a day.", true, charts.Ptr(100.0), percent))
	}
	if len(d.Histogram) > 0 {
		values := table{}
		low, high := d.Histogram[0].Low, d.Histogram[0].High
		for i := range bins {
			values.categories = append(values.categories, number(low+(high-low)*(float64(i)+0.5)/bins))
		}
		for _, r := range d.Histogram {
			values.add(number(low+(high-low)*(float64(r.Bin)+0.5)/bins), versionName(r.Version), float64(r.Predictions))
		}
		values.shorten()
		add(values.bars("Values by version", "How many predictions have a value near the one below the bar.", false, nil, count))
	}
	if len(d.Values) > 0 {
		byDay := table{categories: slices.Clone(days)}
		for _, r := range d.Values {
			byDay.add(d.shortDay(r.Day), "90 % below", r.P90)
			byDay.add(d.shortDay(r.Day), "median", r.Median)
			byDay.add(d.shortDay(r.Day), "10 % below", r.P10)
		}
		add(byDay.lines("Values by day", "The values below which 10, 50 and 90 percent of a day's predictions are.", false, number))
	}
	if len(d.Latency) > 0 {
		byDay := table{categories: slices.Clone(days)}
		for _, r := range d.Latency {
			byDay.add(d.shortDay(r.Day), "99 %", r.P99)
			byDay.add(d.shortDay(r.Day), "95 %", r.P95)
			byDay.add(d.shortDay(r.Day), "median", r.Median)
		}
		add(byDay.lines("Latency by day", "The time below which 50, 95 and 99 percent of a day's predictions took in the sidecar.", true, milliseconds))
	}
	return list, failed
}

// days are all days from the first with predictions to the last, for an axis without gaps.
func (d *Data) days() []string {
	if len(d.Days) == 0 {
		return nil
	}
	day, err := time.Parse(time.DateOnly, d.Days[0].Day)
	last := d.Days[len(d.Days)-1].Day
	var list []string
	for ; err == nil && day.Format(time.DateOnly) <= last; day = day.AddDate(0, 0, 1) {
		list = append(list, d.shortDay(day.Format(time.DateOnly)))
	}
	return list
}

// shortDay is a day without its year, where that says enough.
func (d *Data) shortDay(day string) string {
	if d.MadeAt.Sub(d.Since) > 360*24*time.Hour {
		return day
	}
	return day[len("2006-"):]
}
