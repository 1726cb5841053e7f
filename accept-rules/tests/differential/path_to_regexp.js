// Reads lines {"pattern": …, "paths": […]} and answers each with a line: the verdicts, or null
// where the package cannot compile the pattern.
'use strict'

const pathToRegexp = require('path-to-regexp')
const readline = require('readline')

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { pattern, paths } = JSON.parse(line)
  let verdicts = null
  try {
    const regexp = pathToRegexp(pattern)
    verdicts = paths.map((path) => regexp.test(path))
  } catch (error) {
    // Not a pattern.
  }
  process.stdout.write(JSON.stringify(verdicts) + '\n')
})
