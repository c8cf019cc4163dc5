package transport

import (
	"slices"
	"sort"
)

// memoryLog is one partition: records by offset, with gaps where compaction took some out.
type memoryLog struct {
	records []Record
	sizes   []int64 // sizes[i] is the sum of bytes of everything up to and with records[i], ever
	start   int64   // offset before which everything was dropped
	next    int64   // offset of the next record
	dropped int64   // bytes of everything before records[0], ever
	total   int64   // bytes of everything, ever
	live    int     // records left by the last compaction
}

func (l *memoryLog) append(r Record) {
	r.Offset = l.next
	l.next++
	l.total += int64(len(r.Key) + len(r.Value))
	l.records = append(l.records, r)
	l.sizes = append(l.sizes, l.total)
}

// find returns the index of the first record at or behind the offset.
func (l *memoryLog) find(offset int64) int {
	return sort.Search(len(l.records), func(i int) bool { return l.records[i].Offset >= offset })
}

// after counts the records and bytes at and behind the offset.
func (l *memoryLog) after(offset int64) (records int, bytes int64) {
	i := l.find(offset)
	before := l.dropped
	if i > 0 {
		before = l.sizes[i-1]
	}
	return len(l.records) - i, l.total - before
}

// read returns at most n records from the offset on.
func (l *memoryLog) read(offset int64, n int) []Record {
	i := l.find(offset)
	return slices.Clone(l.records[i:min(i+n, len(l.records))])
}

// drop forgets everything before the offset.
func (l *memoryLog) drop(before int64) {
	i := l.find(before)
	if i > 0 {
		l.dropped = l.sizes[i-1]
		clear(l.records[:i]) // the array behind the slice would keep them
		l.records, l.sizes = l.records[i:], l.sizes[i:]
	}
	l.start = max(l.start, before)
}

// compact keeps the last record of each key, once that is worth the work.
func (l *memoryLog) compact() {
	if len(l.records) < 2*l.live+64 {
		return
	}
	l.records = lastOfEachKey(l.records)
	l.sizes = make([]int64, len(l.records))
	l.total = l.dropped
	for i, r := range l.records {
		l.total += int64(len(r.Key) + len(r.Value))
		l.sizes[i] = l.total
	}
	l.live = len(l.records)
}
