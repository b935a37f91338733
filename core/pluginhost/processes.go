package pluginhost

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
)

// processCollector tells what the plugins' processes use at the moment it is asked.
type processCollector struct{ host *Host }

func processMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("plugboard_plugin_"+name, help, []string{"plugin"}, nil)
}

// Describe implements prometheus.Collector.
func (c *processCollector) Describe(out chan<- *prometheus.Desc) {
	out <- processMetric("resident_memory_bytes", residentHelp)
	out <- processMetric("cpu_seconds_total", cpuHelp)
}

const (
	residentHelp = "Memory of the plugin's process that is resident."
	cpuHelp      = "Processor time that the plugin's process has used."
)

// Collect implements prometheus.Collector. A process that has ended meanwhile, or a
// system without /proc, has no figures.
func (c *processCollector) Collect(out chan<- prometheus.Metric) {
	for _, v := range c.host.all() {
		d := v.slot.Detail()
		if d.PID == 0 {
			continue
		}
		process, err := procfs.NewProc(d.PID)
		if err != nil {
			continue
		}
		stat, err := process.Stat()
		if err != nil {
			continue
		}
		out <- prometheus.MustNewConstMetric(processMetric("resident_memory_bytes", residentHelp), prometheus.GaugeValue, float64(stat.ResidentMemory()), d.Name)
		out <- prometheus.MustNewConstMetric(processMetric("cpu_seconds_total", cpuHelp), prometheus.CounterValue, stat.CPUTime(), d.Name)
	}
}
