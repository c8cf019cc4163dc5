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
	path := u.Path
	if u.Host == "." || os.PathSeparator != '/' {
		path = strings.TrimPrefix(path, "/")
	}
	root := filepath.FromSlash(path)
	for _, folder := range []string{root, filepath.Join(root, filepath.FromSlash(u.Query().Get("prefix")+pipeline), "sets")} {
		if err := list(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the base-line store %s can't be read by this account: %w", u.Scheme+"://"+u.Host+u.Path, err)
		}
	}
	return nil
}

func list(folder string) error {
	f, err := os.Open(folder) //nolint:gosec // it is the folder that the policy names
	if err != nil {
		return err
	}
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, f.Close())
}
