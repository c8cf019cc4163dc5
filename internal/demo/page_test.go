package demo

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/trickle-verify/trickle/internal/testbed/browser"
)

var screenshots = flag.String("screenshots", "", "`FOLDER` in which pictures of the live page are kept that were taken during the demo")

// sight is something that the page shows in the course of the demo, in this order.
type sight struct {
	name string
	when string // an expression
}

func sights() []sight {
	says := func(words string) string {
		return fmt.Sprintf(`document.getElementById("headline") && document.getElementById("headline").textContent === %q`, words)
	}
	const whole = ` && document.querySelectorAll("#tables article").length === 3 && !document.querySelector("#tables .cells .a5")`
	return []sight{
		{"idle", says("all is well") + whole},
		{"drifting", says("drift is being corrected") + ` && document.querySelector("#tables .marks path") && document.querySelectorAll("#corrections tbody tr").length > 5`},
		{"resyncing", says("resyncing") + ` && [...document.querySelectorAll("#resyncs tr.running")].some((r) => r.textContent.includes("full") && !/ 0 of \d/.test(r.querySelector(".meter").textContent))`},
		{"healed", says("all is well") + ` && [...document.querySelectorAll("#resyncs tr.done")].some((r) => r.textContent.includes("full"))`},
	}
}

// watch looks at the page through the whole demo and takes its pictures, if they are asked for.
func watch(tab *browser.Tab, address <-chan string, seen chan<- string, over <-chan struct{}) error {
	defer close(seen)
	var url string
	select {
	case url = <-address:
	case <-over:
		return errUnseen
	}
	if err := tab.Try(chromedp.EmulateViewport(1180, 900), chromedp.Navigate(url)); err != nil {
		return err
	}
	for _, s := range sights() {
		// While the page is loaded anew there is nothing to look at.
		is, last := false, error(nil)
		for deadline := time.Now().Add(4 * time.Minute); !is; time.Sleep(20 * time.Millisecond) {
			select {
			case <-over: // with the demo's end the page is gone
				return fmt.Errorf("the page never showed %s: %w", s.name, errUnseen)
			default:
			}
			if last = tab.Try(chromedp.Evaluate("Boolean("+s.when+")", &is)); time.Now().After(deadline) {
				return fmt.Errorf("the page never showed %s: %w", s.name, cmp.Or(last, errUnseen))
			}
		}
		seen <- s.name
		if s.name == "idle" {
			if err := tellsOfBoth(url); err != nil {
				return err
			}
		}
		if *screenshots == "" || s.name == "healed" {
			continue
		}
		// Frozen as it is, so that both themes show the same.
		if err := tab.Try(emulation.SetScriptExecutionDisabled(true)); err != nil {
			return err
		}
		for _, theme := range []string{"light", "dark"} {
			var shot []byte
			err := tab.Try(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}), chromedp.FullScreenshot(&shot, 100))
			if err != nil {
				return err
			}
			if shot, err = smaller(shot); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(*screenshots, "page-"+s.name+"-"+theme+".png"), shot, 0o644); err != nil {
				return err
			}
		}
		if err := tab.Try(emulation.SetScriptExecutionDisabled(false), chromedp.Reload()); err != nil {
			return err
		}
	}
	return nil
}

// tellsOfBoth asks the page's port what scrapers and scripts ask: it has both sides, as a process of both has.
func tellsOfBoth(url string) error {
	for path, wants := range map[string][]string{
		"/metrics":     {`trickle_scan_rows_total{`, `trickle_gate_open{consumer="replica"`, "go_goroutines "},
		"/status.json": {`"gate":{`, `"scan":{`},
	} {
		answer, err := http.Get(strings.TrimSuffix(url, "/") + path)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			return err
		}
		for _, want := range wants {
			if answer.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
				return fmt.Errorf("%s answers %s and lacks %s:\n%s", path, answer.Status, want, text) //nolint:err113 // a test's
			}
		}
	}
	return nil
}

func distance(a, b color.RGBA) int {
	square := func(x, y uint8) int { return (int(x) - int(y)) * (int(x) - int(y)) }
	return square(a.R, b.R) + square(a.G, b.G) + square(a.B, b.B)
}

// smaller gives a picture the 256 colours that it has most of.
func smaller(text []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	size := full.Bounds()
	counts := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(full.At(x, y)).(color.RGBA) }
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			counts[at(x, y)]++
		}
	}
	colors := make([]color.RGBA, 0, len(counts))
	for c := range counts {
		colors = append(colors, c)
	}
	slices.SortFunc(colors, func(a, b color.RGBA) int {
		if n := counts[b] - counts[a]; n != 0 {
			return n
		}
		return int(a.R) - int(b.R)
	})
	// What looks the same shares one, so that a small mark of another colour than all the text keeps its own.
	var palette color.Palette
	var alike []color.RGBA
	for _, c := range colors {
		if len(palette) == 256 {
			break
		}
		if len(palette) > 0 && distance(c, color.RGBAModel.Convert(palette[palette.Index(c)]).(color.RGBA)) < 150 {
			alike = append(alike, c)
			continue
		}
		palette = append(palette, c)
	}
	for _, c := range alike[:min(len(alike), 256-len(palette))] {
		palette = append(palette, c)
	}
	index := map[color.RGBA]uint8{}
	out := image.NewPaletted(size, palette)
	for y := size.Min.Y; y < size.Max.Y; y++ {
		for x := size.Min.X; x < size.Max.X; x++ {
			c := at(x, y)
			i, known := index[c]
			if !known {
				i = uint8(palette.Index(c))
				index[c] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	var b bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, out)
	return b.Bytes(), err
}

// told passes the address of the page on once the demo tells it.
func told(out *output, address chan<- string) {
	out.on = func(text string) {
		for line := range bytes.Lines([]byte(text)) {
			if _, after, ok := bytes.Cut(line, []byte("in a browser: ")); ok {
				select {
				case address <- string(bytes.TrimSpace(after)):
				default:
				}
			}
		}
	}
}

func TestPicturesBecomeSmaller(t *testing.T) {
	t.Parallel()
	img := image.NewRGBA(image.Rect(0, 0, 300, 200))
	for x := range 300 {
		for y := range 200 {
			img.Set(x, y, color.RGBA{uint8(x), uint8(y), 0, 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	out, err := smaller(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	back, err := png.Decode(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := back.(*image.Paletted); !ok || len(p.Palette) > 256 || p.Bounds() != img.Bounds() {
		t.Errorf("it came back as %T", back)
	}
}

var errUnseen = errors.New("it was not so at any time")
