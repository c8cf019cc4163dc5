package testbed_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestServerDiesWithItsParent(t *testing.T) {
	t.Parallel()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentRole+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var dsn, log string
	_, scanErr := fmt.Fscanln(out, &dsn, &log)
	if scanErr == nil {
		t.Cleanup(func() { os.RemoveAll(filepath.Dir(log)) })
		mustQuery(t, dsn, "SELECT 1::text")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := parent.Wait(); err == nil {
		t.Error("the killed parent ended well")
	}
	if scanErr != nil {
		t.Fatalf("the parent did not start a server: %v", scanErr)
	}
	eventually(t, func() error {
		if _, err := os.Stat(filepath.Join(filepath.Dir(log), "data", "postmaster.pid")); err == nil {
			return fmt.Errorf("the server lives on")
		}
		if _, err := query(t.Context(), dsn, "SELECT 1::text"); err == nil {
			return fmt.Errorf("the server still answers")
		}
		return nil
	})
}
