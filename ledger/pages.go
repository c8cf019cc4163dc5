package ledger

import "context"

// What is held of the journal at once: so many lines, and of large rows fewer.
const (
	firstLines = 100 // nothing is known of them yet
	mostLines  = 1000
	mostBytes  = 4 << 20
)

// Each hands on the lines of the journal that the filter picks, newest first, however many there are: it holds a page of them, and no snapshot of the database while a line is dealt
// with. Lines that are written meanwhile are newer than those that are left, and are not among them.
func (l *Ledger) Each(ctx context.Context, f Filter, deal func(Recorded) error) error {
	left, page := f.Limit, firstLines
	for {
		if f.Limit = page; left > 0 {
			f.Limit = min(page, left)
		}
		list, err := l.Corrections(ctx, f)
		if err != nil {
			return err
		}
		bytes := 0
		for _, c := range list {
			bytes += c.Size()
			if err := deal(c); err != nil {
				return err
			}
		}
		if left > 0 {
			if left -= len(list); left == 0 {
				return nil
			}
		}
		if len(list) < f.Limit {
			return nil
		}
		f.After = list[len(list)-1].Cursor()
		page = fitting(len(list), bytes)
	}
}

// fitting is how many lines the next page has, by what those of the last one took: they may be anything, so it grows slowly.
func fitting(lines, bytes int) int {
	return max(1, min(mostLines, 2*lines, lines*mostBytes/max(bytes, 1)))
}

// Size is how many bytes its rows take.
func (c Recorded) Size() int {
	n := len(c.KeyJSON)
	for _, image := range []*string{c.Before, c.After} {
		if image != nil {
			n += len(*image)
		}
	}
	return n
}
