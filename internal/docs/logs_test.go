package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// levels are the methods of a logger that take a message and then pairs.
var levels = []string{"Debug", "Info", "Warn", "Error"}

// keysOf finds the keys of all lines that a file may log, each with where it is; and what it can't make out.
func keysOf(files *token.FileSet, file *ast.File) (keys map[string]string, faults []string) {
	keys = map[string]string{}
	take := func(args []ast.Expr) {
		for i := 0; i < len(args); i++ {
			at := files.Position(args[i].Pos()).String()
			switch a := args[i].(type) {
			case *ast.BasicLit:
				if name, err := strconv.Unquote(a.Value); err == nil {
					keys[name] = at
				}
				i++ // its value
			case *ast.CallExpr: // slog.String("key", value), which is looked at by itself
			case *ast.Ident: // a slog.Attr or a list of pairs, likewise
			default:
				faults = append(faults, at+": a key that is no literal")
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			f, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || len(n.Args) == 0 {
				return true
			}
			switch name := receiver(f.X); {
			case name == "slog" && len(n.Args) == 2 && slices.Contains([]string{"String", "Int", "Any", "Bool", "Duration", "Time", "Int64", "Uint64", "Float64"}, f.Sel.Name):
				take(n.Args[:1])
			case strings.EqualFold(name, "log") || strings.EqualFold(name, "logger"):
				switch {
				case slices.Contains(levels, f.Sel.Name):
					take(n.Args[1:])
				case f.Sel.Name == "With":
					take(n.Args)
				}
			}
		case *ast.CompositeLit: // attrs := []any{"key", value}, under that name
			if array, ok := n.Type.(*ast.ArrayType); ok {
				if of, ok := array.Elt.(*ast.Ident); ok && of.Name == "any" && len(n.Elts) > 1 {
					if first, ok := n.Elts[0].(*ast.BasicLit); ok && first.Kind == token.STRING && len(n.Elts)%2 == 0 && isPairs(n.Elts) {
						take(n.Elts)
					}
				}
			}
		}
		return true
	})
	return keys, faults
}

// isPairs tells keys and values from other lists.
func isPairs(list []ast.Expr) bool {
	for i := 0; i < len(list); i += 2 {
		lit, ok := list[i].(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING || !regexp.MustCompile(`^"[a-z_]+"$`).MatchString(lit.Value) {
			return false
		}
	}
	return true
}

// receiver is the last name of what a method is called on.
func receiver(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.CallExpr: // log.With(…).Info
		if f, ok := x.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "With" {
			return receiver(f.X)
		}
	}
	return ""
}

// Every key that the log may have is listed in docs/logs.md, and every key listed there is used: one name for each thing.
func TestEveryKeyOfTheLogIsListed(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/logs.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n## Keys\n")
	if !ok {
		t.Fatal("docs/logs.md has no section Keys")
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+`) \\|").FindAllStringSubmatch(table, -1) {
		for _, key := range strings.Split(m[1], ",") {
			listed[strings.Trim(key, " `")] = true
		}
	}
	used := map[string]string{}
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (path == "../../internal/testbed" || path == "../../internal/demo" || path == "../../bench" || d.Name() == ".git"):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		keys, faults := keysOf(files, file)
		maps.Copy(used, keys)
		for _, fault := range faults {
			t.Error(fault)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(used) < 30 {
		t.Fatalf("only %d keys were found", len(used))
	}
	for _, key := range slices.Sorted(maps.Keys(used)) {
		if !listed[key] {
			t.Errorf("%s: the key %q is not in docs/logs.md; is it another name for one that is?", used[key], key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(listed)) {
		if _, ok := used[key]; !ok && key != "repeated" && key != "left_out" {
			t.Errorf("docs/logs.md lists the key %q, which no line has", key)
		}
	}
}
