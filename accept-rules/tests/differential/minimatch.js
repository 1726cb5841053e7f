// {"pattern": …, "values": […]}: whether each value matches, by the newest version and by the one that
// rules were first written for.
'use strict'

const versions = [require('minimatch'), require('minimatch-3.1.2')]

require('./answer')(({ pattern, values }) =>
  values.map((value) => versions.map((minimatch) => minimatch(value, pattern, { dot: true })))
)
