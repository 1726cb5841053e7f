// What Backstage's proxy is made of: one Express route a proxied path, each served by
// createProxyMiddleware with the mount stripped, the host rewritten and configured headers added.
//
// Settings are one JSON object in the environment variable PROXY_SETTINGS:
//   target   where requests go, with its path, for example http://127.0.0.1:8080/broker/sonarqube
//   mount    the path that callers use, for example /api/proxy/sonarqube
//   headers  headers to add, as an object
//   ca       a file with the CA of an https target (optional)
// Prints "listening on <port>" once it answers.
'use strict';

const fs = require('node:fs');
const https = require('node:https');
const express = require('express');
const { createProxyMiddleware } = require('http-proxy-middleware');

const settings = JSON.parse(process.env.PROXY_SETTINGS);

const app = express();
app.disable('x-powered-by');
app.use(
  settings.mount,
  createProxyMiddleware({
    target: settings.target,
    changeOrigin: true,
    pathRewrite: { [`^${settings.mount}/?`]: '/' },
    headers: settings.headers,
    logLevel: 'warn',
    agent: settings.ca ? new https.Agent({ ca: fs.readFileSync(settings.ca) }) : undefined,
  }),
);

const server = app.listen(0, '127.0.0.1', () => {
  console.log(`listening on ${server.address().port}`);
});
