package gate

import "time"

// byHeartbeat needs the lock.
func (g *Gate) byHeartbeat(b beat) Measure {
	m, h, now := Measure{By: ByHeartbeat, Lag: -1}, g.policy.Heartbeat, g.sourceNow()
	switch {
	case b.err != nil:
		return m.closed("the heartbeat %s can't be read in the replica: %v", h.Replica, b.err)
	case b.at.IsZero():
		return m.closed("no heartbeat has come through CDC yet: is %s part of what CDC copies, and does the publisher run?", h.Table)
	case now.IsZero():
		m.closes = ByPublisher
		return m.closed("no message from the publisher yet")
	case b.timeline != g.line.highest:
		// What CDC still carries of the old primary may be newer than the source, and its clock may have been ahead.
		m.closes = ByTimeline
		return m.closed("the source failed over (timeline %d) and CDC has brought no heartbeat of that timeline yet; the newest is of timeline %d", g.line.highest, b.timeline)
	}
	if !g.back.IsZero() {
		return m.closed("the source's clock was set back, and CDC has brought no heartbeat from after that yet; the newest is of %s", b.at.Format(time.RFC3339))
	}
	m.through, m.Lag = b.at, max(0, now.Sub(b.at))
	if limit := time.Duration(g.policy.MaxLag); m.Lag > limit {
		return m.late("the replica is %s behind the source, more than gate.max_lag %s", round(m.Lag), limit)
	}
	return m
}

// byWord takes the operator's word for the lag. It needs the lock.
func (g *Gate) byWord() Measure {
	m, lag, now := Measure{By: ByAssumed, Lag: -1}, time.Duration(g.policy.AssumeLag), g.sourceNow()
	switch {
	case now.IsZero():
		m.closes = ByPublisher
		return m.closed("no message from the publisher yet")
	case now.Add(-lag).Before(g.line.since):
		m.closes = ByTimeline
		return m.closed("the source failed over (timeline %d): closed until gate.assume_lag, %s, has passed", g.line.highest, lag)
	}
	m.through, m.Lag = now.Add(-lag), lag
	return m
}

// byPath is what slot and group prove together. It needs the lock.
func (g *Gate) byPath() Measure {
	m, through := Measure{By: ByPath, Lag: -1}, g.marks.passed.through
	switch {
	case through.IsZero() && !g.line.since.IsZero():
		m.closes = ByTimeline
		return m.closed("the source failed over (timeline %d), and what it has written since has not come through to the sink yet", g.line.highest)
	case through.IsZero():
		return m.closed("consumer group %s has not yet committed all that was in its topics when replication slot %s was first looked at", g.policy.Group, g.policy.Slot)
	}
	m.through, m.Lag = through, max(0, g.sourceNow().Sub(through))
	if limit := time.Duration(g.policy.MaxLag); m.Lag > limit {
		return m.closed("the replica is %s behind the source by slot and group together, more than gate.max_lag %s: the sink may commit its offsets too seldom", round(m.Lag), limit)
	}
	return m
}
