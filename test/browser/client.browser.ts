/** Our own client in a real browser: a file input, a reload, a line that goes away. */
import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { buildSync } from 'esbuild'
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { data, MiB, pause, stage, until } from '../client/support.ts'
import { tempFolder } from '../support/temp-folder.ts'

const candidates = [
  process.env.CHROMIUM_PATH,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
]
const html =
  '<!doctype html><title>client</title><link rel="icon" href="data:,"><input type="file"><script type="module" src="/page.js"></script>'
const script = `
  import { createUpload } from './client.ts'
  const input = document.querySelector('input')
  window.seen = []
  input.addEventListener('change', () => {
    window.upload = createUpload(input.files[0], { chunkSize: 512 * 1024, retryDelay: 100, maxRetryDelay: 500 })
    window.upload.subscribe((progress) => window.seen.push(progress))
    window.outcome = window.upload.start().then((result) => result, (error) => ({ error: error.code ?? error.name }))
  })`

let browser: Browser
let context: BrowserContext
let code: string

beforeAll(async () => {
  const executablePath = candidates.find((path) => path && existsSync(path))
  if (!executablePath) throw new Error('There is no Chromium. Install it, or set CHROMIUM_PATH to its executable.')
  const stdin = { contents: script, resolveDir: join(import.meta.dirname, '../../src') }
  code = buildSync({ stdin, bundle: true, format: 'esm', platform: 'browser', write: false }).outputFiles[0]?.text ?? ''
  browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] })
})
afterAll(() => browser?.close())
afterEach(() => context?.close())

/** The page and the routes on one origin, through a line that can be slow. */
async function site(chunkDelay = 0) {
  const staged = await stage(
    {},
    {
      async intervene({ route, url }) {
        if (route === 'chunk') await pause(chunkDelay)
        if (route !== 'other') return undefined
        if (url.pathname === '/') return { status: 200, body: html }
        return { status: 200, headers: { 'Content-Type': 'text/javascript' }, body: code }
      },
    },
  )
  context = await browser.newContext()
  const page = await context.newPage()
  const origin = staged.front.endpoint.replace('/upload', '/')
  await page.goto(origin)
  return { ...staged, page }
}

const choose = (page: Page, path: string) => page.locator('input').setInputFiles(path)
const outcomeOf = (page: Page) =>
  page.evaluate('window.outcome') as Promise<{ url: string; uploadId: string; key: string; size: number }>
const progressOf = (page: Page) =>
  page.evaluate('window.upload?.progress') as Promise<{ state: string; sentBytes: number }>

async function fileOnDisk(size: number) {
  const path = join(tempFolder(), 'film.mp4')
  const content = data(size)
  await writeFile(path, content)
  return { path, content }
}

describe('in Chromium', () => {
  it('a chosen file arrives whole, and its bytes are counted while they go', async () => {
    const { page, expectStored } = await site(30)
    const { path, content } = await fileOnDisk(12 * MiB + 5)
    await choose(page, path)
    await expectStored(await outcomeOf(page), content)
    const seen = (await page.evaluate('window.seen')) as { state: string; speed: number }[]
    expect([...new Set(seen.map(({ state }) => state))]).toEqual(['uploading', 'completing', 'completed'])
    expect(seen.some(({ speed }) => speed > 0)).toBe(true)
  })

  it('after a reload half way the same file goes on, and an edited one does not', async () => {
    const { page, front, expectStored } = await site(60)
    const { path, content } = await fileOnDisk(16 * MiB)
    await choose(page, path)
    await until(async () => (await progressOf(page)).sentBytes > 8 * MiB)
    await page.reload()
    await choose(page, path)
    await expectStored(await outcomeOf(page), content)
    expect(front.chunkBytes).toBeLessThan(1.2 * content.length)

    await page.reload()
    await choose(page, path)
    await until(async () => (await progressOf(page)).sentBytes > 8 * MiB)
    await page.reload()
    const edited = data(16 * MiB, 2)
    await writeFile(path, edited)
    await choose(page, path)
    await expectStored(await outcomeOf(page), edited)
  })

  it('while it is offline it waits, and goes on when the line is back', async () => {
    const { page, expectStored } = await site(60)
    const { path, content } = await fileOnDisk(12 * MiB)
    await choose(page, path)
    await until(async () => (await progressOf(page)).sentBytes > 3 * MiB)
    await context.setOffline(true)
    await until(async () => (await progressOf(page)).state === 'waiting')
    await pause(8_000)
    expect((await progressOf(page)).state).toBe('waiting')
    await context.setOffline(false)
    await expectStored(await outcomeOf(page), content)
  })

  it('pause, resume and abort do what they say', async () => {
    const { page, front, stored } = await site(60)
    const { path } = await fileOnDisk(12 * MiB)
    await choose(page, path)
    await until(async () => (await progressOf(page)).sentBytes > 2 * MiB)
    await page.evaluate('window.upload.pause()')
    await pause(200)
    const { length } = front.exchanges
    await pause(300)
    expect(front.exchanges.length).toBe(length)
    await page.evaluate('window.upload.resume()')
    await until(async () => (await progressOf(page)).sentBytes > 6 * MiB)
    await page.evaluate('window.upload.abort()')
    expect(await outcomeOf(page)).toEqual({ error: 'ABORTED' })
    expect(front.exchanges.at(-1)).toMatchObject({ route: 'abort', status: 204 })
    expect(await stored()).toEqual([])
  })

  it('the React hook of the examples shows the upload, and stops it when its component goes away', async () => {
    const { page, front, expectStored } = await site(400)
    const hook = `
      import { createElement, render } from 'react'
      import { FileUpload } from '../examples/react-hook.ts'
      document.body.innerHTML = '<div></div>'
      const root = document.querySelector('div')
      const show = () => render(createElement(FileUpload, { endpoint: '/upload' }), root)
      window.hide = () => render(null, root)
      window.show = show
      show()`
    const { outputFiles } = buildSync({
      stdin: { contents: hook, resolveDir: join(import.meta.dirname, '../../src') },
      bundle: true,
      format: 'iife',
      platform: 'browser',
      alias: { react: 'preact/compat', 'nexus-uploader/client': join(import.meta.dirname, '../../src/client.ts') },
      write: false,
      tsconfigRaw: {},
    })
    await page.evaluate(outputFiles[0]?.text ?? '')
    const { path, content } = await fileOnDisk(40 * MiB)
    await choose(page, path)
    await page.waitForFunction(`document.querySelector('progress').value > 0.2`)
    expect(await page.locator('output').textContent()).toBe('uploading')
    await page.evaluate('window.hide()')
    await pause(200)
    const { length } = front.exchanges
    await pause(300)
    expect(front.exchanges.length).toBe(length)
    await page.evaluate('window.show()')
    await choose(page, path)
    await page.waitForSelector('a')
    const key = decodeURIComponent((await page.locator('a').getAttribute('href')) ?? '').replace(
      /^.*uploads\//,
      'uploads/',
    )
    await expectStored({ url: '', uploadId: '', key, size: content.length }, content)
    expect(front.chunkBytes).toBeLessThan(1.2 * content.length + 6 * MiB)
  })

  it('a file that was changed after it was chosen is no success', async () => {
    const { page, stored } = await site(60)
    const { path } = await fileOnDisk(12 * MiB)
    await choose(page, path)
    await until(async () => (await progressOf(page)).sentBytes > 2 * MiB)
    await writeFile(path, await readFile(path).then((content) => content.fill(1, 6 * MiB)))
    expect(await outcomeOf(page)).toEqual({ error: 'SOURCE_UNREADABLE' })
    expect(await stored()).toEqual([])
  })
})
