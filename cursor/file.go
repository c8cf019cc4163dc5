package cursor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	fileVersion = 1
	writeEvery  = time.Second
	// A large state takes longer to write: the file is left alone for this many times as long as the last write took.
	restFactor = 10
)

// File keeps the state in one JSON file, for a publisher that is the only one. Changes are gathered and written at most once a second,
// by replacing the file, so that whoever reads it sees a whole state; a kill loses the last second.
type File struct {
	path string

	mu     sync.Mutex
	book   *book
	failed error // of the last write

	dirty chan struct{}
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
}

type fileContent struct {
	Version int `json:"version"`
	State
}

// OpenFile reads the file, if it exists, and starts the goroutine that writes it, which Close ends.
func OpenFile(path string) (*File, error) {
	state, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &File{
		path:  path,
		book:  bookOf(state),
		dirty: make(chan struct{}, 1),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	go f.run()
	return f, nil
}

// ReadFile returns the state in the file, at any time, also while a File writes it. A file that does not exist is an empty state.
func ReadFile(path string) (State, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return new(book).state(), nil
	}
	if err != nil {
		return State{}, fmt.Errorf("reading the cursor file: %w", err)
	}
	var content fileContent
	if err := json.Unmarshal(b, &content); err != nil {
		return State{}, fmt.Errorf("%s is no cursor file, or a damaged one (%w): check --cursor-file; where it is the right one, delete it, and everything is verified from the beginning", path, err)
	}
	if content.Version != fileVersion {
		return State{}, fmt.Errorf("cursor file %s has version %d, this program knows %d: delete it to start over", path, content.Version, fileVersion)
	}
	return bookOf(content.State).state(), nil
}

// Load returns what was saved so far, written or not.
func (f *File) Load(context.Context) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.book.state(), nil
}

// Save takes the change and returns before it is written; its error is that of the last write, which is tried again.
func (f *File) Save(_ context.Context, c Change) error {
	f.mu.Lock()
	f.book.apply(c)
	failed := f.failed
	f.mu.Unlock()
	select {
	case f.dirty <- struct{}{}:
	default:
	}
	return failed
}

// Close writes what is left and waits for that.
func (f *File) Close() error {
	f.once.Do(func() { close(f.stop) })
	<-f.done
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

func (f *File) run() {
	defer close(f.done)
	for {
		select {
		case <-f.dirty:
		case <-f.stop:
			select {
			case <-f.dirty:
				f.write()
			default:
			}
			return
		}
		rest := time.NewTimer(max(writeEvery, restFactor*f.write()))
		select {
		case <-rest.C:
		case <-f.stop:
			rest.Stop()
		}
	}
}

// write returns how long it took.
func (f *File) write() time.Duration {
	began := time.Now()
	f.mu.Lock()
	state := f.book.state()
	f.mu.Unlock()
	err := replace(f.path, fileContent{Version: fileVersion, State: state})
	if err != nil {
		err = fmt.Errorf("writing the cursor file: %w", err)
		select {
		case f.dirty <- struct{}{}: // again after the rest
		default:
		}
	}
	f.mu.Lock()
	f.failed = err
	f.mu.Unlock()
	return time.Since(began)
}

// replace writes beside the file and renames, so that a kill or a full disk leaves the old file whole.
func replace(path string, content any) (err error) {
	b, err := json.Marshal(content)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	_, err = temp.Write(b)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	syncDir(dir)
	return nil
}

// syncDir makes a rename survive a power cut. Not every file system can do that, and what is at stake is one second of cursors.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = errors.Join(d.Sync(), d.Close())
	}
}
