package tensorjson

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Excerpt cuts text for a message, at the border of a character.
func Excerpt(text []byte) string {
	const most = 40
	if len(text) <= most {
		return string(text)
	}
	n := most
	for n > most-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	return string(text[:n]) + "..."
}

// Listed joins names for a message, at most ten of them.
func Listed(names []string) string {
	const most = 10
	if len(names) > most+1 {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

func portList(ports []rowcast.Port) string {
	names := make([]string, len(ports))
	for i, p := range ports {
		names[i] = fmt.Sprintf("%q %s%s", p.Name, p.DType, shapeText(p.Shape))
	}
	return Listed(names)
}

// shapeText writes [N,4]: N is a dimension that the graph leaves open.
func shapeText(shape []int64) string {
	parts := make([]string, len(shape))
	for i, d := range shape {
		parts[i] = fmt.Sprint(d)
		if d < 0 {
			parts[i] = "N"
		}
	}
	return "[" + strings.Join(parts, ",") + "]"
}
