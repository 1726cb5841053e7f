// {"pattern": …, "paths": […]}: whether each path matches.
'use strict'

const pathToRegexp = require('path-to-regexp')

require('./answer')(({ pattern, paths }) => {
  const regexp = pathToRegexp(pattern)
  return paths.map((path) => regexp.test(path))
})
