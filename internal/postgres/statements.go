package postgres

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// statement is one SQL statement of a file.
type statement struct {
	text string // without the semicolon that ends it
	line int    // of its first word, from 1
}

// splitStatements cuts a file into its statements, so that an error can name the line even where PostgreSQL reports no position. It knows
// comments (nested ones too), strings, E strings, quoted identifiers, dollar quotes, and the semicolons inside BEGIN ATOMIC … END.
func splitStatements(file string) []statement {
	var (
		list  []statement
		start = -1 // byte where the statement's first word begins
		line  = 1  // of that
		now   = 1  // of position i
		depth int  // open BEGIN ATOMIC and CASE
		prior string
	)
	for i := 0; i < len(file); {
		end, kind := scanToken(file, i)
		token := file[i:end]
		if kind != tokenSpace && kind != tokenSemicolon && start < 0 {
			start, line = i, now
		}
		switch kind {
		case tokenWord:
			word := strings.ToUpper(token)
			switch {
			case word == "ATOMIC" && prior == "BEGIN", word == "CASE" && depth > 0:
				depth++
			case word == "END" && depth > 0:
				depth--
			}
			prior = word
		case tokenSemicolon:
			if depth > 0 {
				break
			}
			if start >= 0 {
				list = append(list, statement{text: file[start:i], line: line})
			}
			start, prior = -1, ""
		}
		now += strings.Count(token, "\n")
		i = end
	}
	if start >= 0 {
		list = append(list, statement{text: strings.TrimRight(file[start:], " \t\n\r\f\v"), line: line})
	}
	return list
}

type tokenKind int

const (
	tokenSpace tokenKind = iota // and comments
	tokenWord
	tokenQuoted
	tokenSemicolon
	tokenOther
)

// scanToken returns the end of the token that begins at i and its kind. What is left open ends with the file.
func scanToken(s string, i int) (int, tokenKind) {
	rest := s[i:]
	switch c := s[i]; {
	case c == ';':
		return i + 1, tokenSemicolon
	case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
		return i + 1, tokenSpace
	case strings.HasPrefix(rest, "--"):
		if n := strings.IndexByte(rest, '\n'); n >= 0 {
			return i + n, tokenSpace
		}
		return len(s), tokenSpace
	case strings.HasPrefix(rest, "/*"):
		return i + blockComment(rest), tokenSpace
	case (c == 'e' || c == 'E') && len(rest) > 1 && rest[1] == '\'':
		return i + 1 + quoted(rest[1:], '\'', true), tokenQuoted
	case c == '\'' || c == '"':
		return i + quoted(rest, c, false), tokenQuoted
	case c == '$':
		if n := dollarQuoted(rest); n > 0 {
			return i + n, tokenQuoted
		}
		return i + 1, tokenOther
	}
	r, size := utf8.DecodeRuneInString(rest)
	if !wordRune(r, true) {
		return i + size, tokenOther
	}
	end := i
	for end < len(s) {
		r, size := utf8.DecodeRuneInString(s[end:])
		if !wordRune(r, end == i) {
			break
		}
		end += size
	}
	return end, tokenWord
}

func wordRune(r rune, first bool) bool {
	return r == '_' || r >= 0x80 || unicode.IsLetter(r) || !first && (r == '$' || unicode.IsDigit(r))
}

func blockComment(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], "/*"):
			depth++
			i++
		case strings.HasPrefix(s[i:], "*/"):
			depth--
			i++
			if depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

// quoted returns the length of the string or identifier that s begins with. A doubled quote needs no care: it reads as two strings in a row.
func quoted(s string, quote byte, backslash bool) int {
	for i := 1; i < len(s); i++ {
		switch {
		case backslash && s[i] == '\\':
			i++
		case s[i] == quote:
			if backslash && i+1 < len(s) && s[i+1] == quote {
				i++ // the second half would be read without backslashes
				continue
			}
			return i + 1
		}
	}
	return len(s)
}

// dollarQuoted returns the length of the dollar-quoted string that s begins with, 0 where it begins with none ($1).
func dollarQuoted(s string) int {
	end := strings.IndexByte(s[1:], '$')
	if end < 0 {
		return 0
	}
	tag := s[:end+2]
	for i, r := range tag[1 : len(tag)-1] {
		if r == '$' || !wordRune(r, i == 0) {
			return 0
		}
	}
	if n := strings.Index(s[len(tag):], tag); n >= 0 {
		return len(tag) + n + len(tag)
	}
	return len(s)
}
