package measure

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ProcessorTime is how long processors have worked: all of the machine's, and those that worked for the processes below root.
type ProcessorTime struct {
	at          time.Time
	all, mine   float64 // seconds
	knowsBounds bool    // whether mine is known
}

const ticks = 100 // USER_HZ, the same on every Linux that Go runs on

// ReadProcessorTime adds up /proc. root is the process that started PostgreSQL, the sidecar and this program; 0 where there is no such process.
func ReadProcessorTime(root int) ProcessorTime {
	t := ProcessorTime{at: time.Now()}
	stat, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(first) {
		if n, err := strconv.ParseFloat(field, 64); err == nil && i != 4 && i != 5 && i <= 8 { // without idle and waiting for disks
			t.all += n / ticks
		}
	}
	if root <= 1 {
		return t
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return t
	}
	parents, used := map[int]int{}, map[int]float64{}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			parents[pid], used[pid] = ProcessStat(pid)
		}
	}
	for pid := range used {
		for p, depth := pid, 0; p > 1 && depth < 100; p, depth = parents[p], depth+1 {
			if p == root {
				t.mine += used[pid]
				break
			}
		}
	}
	t.knowsBounds = true
	return t
}

// ProcessStat returns the parent of a process and the processor time in seconds of it and its ended children; zeros where it has ended.
func ProcessStat(pid int) (parent int, used float64) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // the name before it may hold anything
	if len(fields) < 15 {
		return 0, 0
	}
	parent, _ = strconv.Atoi(fields[1])
	for _, f := range fields[11:15] {
		n, _ := strconv.ParseFloat(f, 64)
		used += n / ticks
	}
	return parent, used
}

func isAncestor(ancestor, pid int) bool {
	for depth := 0; pid > 1 && depth < 100; depth++ {
		if pid == ancestor {
			return true
		}
		pid, _ = ProcessStat(pid)
	}
	return false
}

// Others is how many processors other programs kept busy since from; 0 where that can't be told.
func (t ProcessorTime) Others(from ProcessorTime) float64 {
	if !t.knowsBounds || !from.knowsBounds {
		return 0
	}
	return max(0, (t.all-from.all)-(t.mine-from.mine)) / t.at.Sub(from.at).Seconds()
}

// busy says that other programs disturbed a measurement, or nothing.
func busy(others float64) string {
	if others < 0.15 {
		return ""
	}
	return fmt.Sprintf("other programs kept %.1f cores busy meanwhile, so this is not what the machine can do", others)
}
