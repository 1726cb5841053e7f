// {"pattern": …, "texts": […]}: whether each text has a match.
'use strict'

require('./answer')(({ pattern, texts }) => {
  const regexp = new RegExp(pattern)
  return texts.map((text) => regexp.test(text))
})
