// Package java runs the testbed's programs for the JVM: Kafka, Kafka Connect, and Debezium's connectors in it.
//
// It decides where they come from (the kit: a cache folder that scripts/prerequisites fills with what pom.xml pins) and with which settings a
// throw-away JVM starts fast and stays small. What always holds: nothing is downloaded here, a kit of another pom is never used, and a JVM dies
// with the process that started it. What is missing is an error that says what to run.
package java

import (
	"context"
	"crypto/sha256"
	_ "embed" // the pom
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/trickle-verify/trickle/internal/testbed/child"
)

// oldest is the first Java that Kafka's servers run on.
const oldest = 17

//go:embed pom.xml
var pom []byte

// Kit is a Java and what it is to run.
type Kit struct {
	java   string
	folder string
}

// Program is one to start.
type Program struct {
	Name      string // for errors
	Class     string // with the main method
	Arguments []string
	HeapMB    int
	Log       *os.File // takes what it prints
	Dir       string   // where it runs
}

// Find looks for the kit and for a Java.
func Find(ctx context.Context) (Kit, error) {
	cache, err := cacheDir()
	if err != nil {
		return Kit{}, err
	}
	sum := sha256.Sum256(pom)
	k := Kit{folder: filepath.Join(cache, hex.EncodeToString(sum[:6]))}
	if _, err := os.Stat(k.folder); err != nil {
		return Kit{}, fmt.Errorf("kafka and debezium are not here (%w): run make test, or scripts/prerequisites alone, which fetches them with maven", err)
	}
	if k.java, err = find(ctx); err != nil {
		return Kit{}, err
	}
	return k, nil
}

// Plugins is the folder with Debezium's connectors, as Kafka Connect's plugin.path wants it.
func (k Kit) Plugins() string { return filepath.Join(k.folder, "plugins") }

// Start starts a program, to be killed when we die.
func (k Kit) Start(p Program) (*child.Process, error) {
	cmd := exec.Command(k.java, k.arguments(p)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.Dir, p.Log, p.Log
	proc, err := child.Start(p.Name, cmd, syscall.SIGKILL)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return proc, nil
}

// Run runs a program to its end.
func (k Kit) Run(ctx context.Context, p Program) error {
	cmd := exec.CommandContext(ctx, k.java, k.arguments(p)...)
	cmd.Dir = p.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", p.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// arguments keep a JVM from what pays only for one that runs for hours: the optimising compiler, a collector with threads of its own.
func (k Kit) arguments(p Program) []string {
	args := []string{
		fmt.Sprintf("-Xmx%dm", p.HeapMB), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-XX:+ExitOnOutOfMemoryError",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
		"-cp", filepath.Join(k.folder, "jars", "*"), p.Class,
	}
	return append(args, p.Arguments...)
}

// find takes $JAVA_HOME, else what is on PATH.
func find(ctx context.Context) (string, error) {
	java, home := "java", os.Getenv("JAVA_HOME")
	if home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	version, err := versionOf(ctx, java)
	switch {
	case err != nil:
		return "", fmt.Errorf("there is no Java here: run scripts/prerequisites, or install Java %d or newer, or set JAVA_HOME: %w", oldest, err)
	case version < oldest:
		return "", fmt.Errorf("%s is Java %d and Kafka wants %d or newer: install one, or set JAVA_HOME to it", java, version, oldest)
	}
	return java, nil
}

var versionText = regexp.MustCompile(`version "(\d+)`)

func versionOf(ctx context.Context, java string) (int, error) {
	out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s -version: %w: %s", java, err, strings.TrimSpace(string(out)))
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return 0, errors.New(java + " -version names no version: " + strings.TrimSpace(string(out)))
	}
	return strconv.Atoi(string(m[1]))
}

// cacheDir is kafka_dir in scripts/prerequisites.
func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/trickle/kafka", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache for kafka: %w", err)
	}
	return filepath.Join(dir, "trickle", "kafka"), nil
}

// WriteProperties writes settings as the programs read them.
func WriteProperties(path string, settings map[string]string) error {
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s=%s\n", key, strings.ReplaceAll(settings[key], `\`, `\\`))
	}
	return os.WriteFile(path, []byte(text.String()), 0o600)
}
