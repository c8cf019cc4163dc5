package testbed

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is an unprivileged user: Postgres refuses to run as root.
type account struct {
	name     string
	uid, gid uint32
}

// serverAccount tells whom a server must run as; nil means as ourselves.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("postgres refuses to run as root and there is neither a user postgres nor nobody: run as another user")
}

// reaches refuses a folder below one that the account can't enter, which initdb would report in a puzzling way.
func (a *account) reaches(folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(folder); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 && !a.owns(info) {
			return fmt.Errorf("user %s, whom postgres runs as, can't enter %s: choose a folder outside it", a.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// as runs a process under the account.
func as(a *account) *syscall.SysProcAttr {
	if a == nil {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid}}
}

func (a *account) owns(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == a.uid
}
