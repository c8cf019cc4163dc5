package baseline

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

// CheckSource refuses a set of another source, with a *ForeignError.
func (m *Manifest) CheckSource(source string) error {
	if m.Source != source {
		return &ForeignError{Name: "set " + m.Set, What: "source", Has: m.Source, Want: source}
	}
	return nil
}

// Table finds a table by the source's name for it.
func (m *Manifest) Table(name string) (*Table, bool) {
	i := slices.IndexFunc(m.Tables, func(t Table) bool { return t.Table == name })
	if i < 0 {
		return nil, false
	}
	return &m.Tables[i], true
}

// Complete reports that the set is whole: it may be restored from.
func (m *Manifest) Complete() bool { return !m.Completed.IsZero() }

var setRule = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}[.][0-9]{6}Z-[0-9a-f]{8}$`)

// check tells what is wrong with a manifest, whatever the store holds: what does not add up, a table of which keys are left out or in twice, a name that leads elsewhere.
func (m *Manifest) check() error {
	if !setRule.MatchString(m.Set) {
		return fmt.Errorf("%q is no name of a set", m.Set)
	}
	if err := message.CheckName("pipeline", m.Pipeline); err != nil {
		return err
	}
	switch {
	case m.Source == "":
		return errors.New("it names no source")
	case m.Begun.IsZero():
		return errors.New("it does not say when it was begun")
	case m.Complete() && len(m.Bases) > 0:
		return errors.New("it is complete and names what it is still made of")
	}
	for i, p := range m.Positions {
		sorted := slices.IsSortedFunc(p.Position, func(a, b transport.TopicPosition) int { return strings.Compare(a.Topic, b.Topic) })
		if !sorted || i > 0 && p.Taken.Before(m.Positions[i-1].Taken) {
			return errors.New("its positions are not in order")
		}
	}
	tables, objects := make(map[string]bool), make(map[string]bool)
	for i := range m.Tables {
		t := &m.Tables[i]
		if t.Table == "" || tables[t.Table] {
			return fmt.Errorf("table %q has no name or is in it twice", t.Table)
		}
		tables[t.Table] = true
		if err := m.checkTable(t, objects); err != nil {
			return fmt.Errorf("table %s: %w", t.Table, err)
		}
	}
	return nil
}

func (m *Manifest) checkTable(t *Table, seen map[string]bool) error {
	if len(t.Schema.Key) == 0 || len(t.Schema.Columns) == 0 {
		return errors.New("it has no key or no columns")
	}
	if t.Digest != digest.Record && t.Digest != digest.Portable {
		return fmt.Errorf("unknown digest %d", t.Digest)
	}
	var print digest.Thumbprint
	for i := range t.Objects {
		o := &t.Objects[i]
		if err := m.checkObject(t, o); err != nil {
			return fmt.Errorf("object %s: %w", o.Name, err)
		}
		if seen[o.Name] {
			return fmt.Errorf("object %s is in it twice", o.Name)
		}
		seen[o.Name] = true
		print = print.Add(digest.Thumbprint{Rows: o.Rows, Sum: o.Sum})
	}
	if !m.Complete() {
		return nil
	}
	if err := cover(t.Objects); err != nil {
		return err
	}
	if want := (digest.Thumbprint{Rows: t.Rows, Sum: t.Sum}); print != want {
		return fmt.Errorf("its objects have %d rows with sum %d and it says %d with sum %d", print.Rows, print.Sum, want.Rows, want.Sum)
	}
	return nil
}

// cover tells where ranges don't follow each other from the first key to the last.
func cover(objects []Object) error {
	if len(objects) == 0 {
		return errors.New("it has no objects")
	}
	for i, o := range objects {
		switch first, last := i == 0, i == len(objects)-1; {
		case first && o.Range.Lo != nil:
			return errors.New("its first object begins at a key and not before every key")
		case last && o.Range.Hi != nil:
			return errors.New("its last object ends at a key and not behind every key")
		case !first && (o.Range.Lo == nil || !o.Range.Lo.Equal(objects[i-1].Range.Hi)):
			return fmt.Errorf("object %s does not begin where %s ends", o.Name, objects[i-1].Name)
		}
	}
	return nil
}

func (m *Manifest) checkObject(t *Table, o *Object) error {
	for _, k := range []message.Key{o.Range.Lo, o.Range.Hi} {
		if k != nil && len(k) != len(t.Schema.Key) {
			return fmt.Errorf("a bound of its range has %d columns and does not fit the key (%s)", len(k), strings.Join(t.Schema.Key, ", "))
		}
		if slices.ContainsFunc(k, func(v string) bool { return !utf8.ValidString(v) }) {
			return errors.New("its range is not of UTF-8")
		}
	}
	sum, err := hex.DecodeString(o.SHA256)
	switch {
	case err != nil || len(sum) != 32:
		return errors.New("it has no SHA-256")
	case !strings.HasPrefix(o.Name, folder(t.Table)) || strings.Contains(o.Name[len(folder(t.Table)):], "/"):
		return errors.New("it does not lie in its table's folder")
	case o.Range.Lo != nil && o.Range.Lo.Equal(o.Range.Hi):
		return errors.New("its range is empty")
	case o.Bytes <= 0 || o.Raw < 0:
		return errors.New("it has no size")
	case o.Point < 0 || o.Point >= len(m.Positions):
		return fmt.Errorf("it names position %d of %d", o.Point, len(m.Positions))
	}
	return nil
}
