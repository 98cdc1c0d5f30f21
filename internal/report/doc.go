// Package report shows what a model predicted: Collect reads aggregates of ml.predictions with the reader's own rights, Write makes one HTML page of
// them that needs nothing else: styles and drawings are inside, and no script.
//
// Each chart is drawn twice, in colours for light and for dark backgrounds, and the page shows the one that fits the reader's setting. The colours are
// those of Okabe and Ito, which people who see few colours can tell apart. What the charts show is in tables, too.
package report
