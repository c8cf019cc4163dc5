package baseline

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// readable refuses a folder of this machine that is there and can't be listed: listing what another account has written, for itself alone, comes to nothing and no error,
// which would look like a view without a set.
func readable(u *url.URL, pipeline string) error {
	root := folderOf(u)
	for _, folder := range []string{root, filepath.Join(root, filepath.FromSlash(u.Query().Get("prefix")+pipeline), "sets")} {
		if err := list(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the base-line store %s can't be read by this account: %w", u.Scheme+"://"+u.Host+u.Path, err)
		}
	}
	return nil
}

// there refuses a folder that is not there.
func there(u *url.URL) error {
	if u.Query().Get("create_dir") == "true" { // as whoever wrote the policy wants it
		return nil
	}
	if _, err := os.Stat(folderOf(u)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the base-line store %s is not there: either baseline.url is mistyped, or no set was ever built (trickle run, or trickle baseline build): %w", u.Scheme+"://"+u.Host+u.Path, fs.ErrNotExist)
	}
	return nil
}

// folderOf is the folder that a file:// URL names.
func folderOf(u *url.URL) string {
	path := u.Path
	if u.Host == "." || os.PathSeparator != '/' {
		path = strings.TrimPrefix(path, "/")
	}
	return filepath.FromSlash(path)
}

func list(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, f.Close())
}
