package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// heldRows is how many rows of a table are looked at before they are printed, for the widths of its columns.
const heldRows = 500

// Table is a table of however many rows: it holds a few, and columns that turn out too narrow grow on the way. Close it, also after an error: what it was given is printed.
type Table struct {
	out    io.Writer
	head   table.Row
	rows   []table.Row
	widths []int
	begun  bool
	bottom string
}

// NewTable begins one. A table without rows prints nothing.
func NewTable(out io.Writer, head ...any) *Table {
	return &Table{out: out, head: head, widths: make([]int, len(head))}
}

// Row adds one, of a cell for each column and of one line.
func (t *Table) Row(cells ...any) error {
	for i, cell := range cells {
		t.widths[i] = max(t.widths[i], text.StringWidthWithoutEscSequences(fmt.Sprint(cell)))
	}
	if t.rows = append(t.rows, cells); len(t.rows) < heldRows {
		return nil
	}
	return t.print()
}

// Close prints what is left, and the end.
func (t *Table) Close() error {
	if len(t.rows) > 0 {
		if err := t.print(); err != nil {
			return err
		}
	}
	if !t.begun {
		return nil
	}
	_, err := fmt.Fprintln(t.out, t.bottom)
	return err
}

// print writes what is held: the first time below the head, then below what is there.
func (t *Table) print() error {
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.AppendHeader(t.head)
	w.AppendRows(t.rows)
	columns := make([]table.ColumnConfig, len(t.widths))
	for i, width := range t.widths {
		columns[i] = table.ColumnConfig{Number: i + 1, WidthMin: width}
	}
	w.SetColumnConfigs(columns)
	lines := strings.Split(w.Render(), "\n")
	end := len(lines) - 1
	t.bottom = lines[end]
	if lines = lines[:end]; t.begun {
		const head = 3 // a line, the names, a line
		lines = lines[head:]
	}
	t.begun, t.rows = true, t.rows[:0]
	_, err := io.WriteString(t.out, strings.Join(lines, "\n")+"\n")
	return err
}
