/** The demo's page as a person uses it, with every client that it offers. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bytes, sha256 } from '../support/random.ts'
import { makeFolder } from '../support/temp-folder.ts'
import { launchBrowser } from './support/tab.ts'
import { until } from './support/until.ts'

const root = join(import.meta.dirname, '../..')
const screenshots = join(root, 'test-results')
const folder = makeFolder()
const film = { name: 'holiday film.mp4', content: bytes(50_000_000, 7) }
const path = join(folder.path, film.name)

interface Choice {
  readonly label: string
  /** Uppy's Dashboard has a picker of its own. */
  readonly picker: string
}

const picker = '#picker'
const choices: readonly Choice[] = [
  { label: 'Our own client', picker },
  { label: 'Uppy with tus', picker: '.uppy-Dashboard-input' },
  { label: 'Uppy with AwsS3', picker },
  { label: 'Resumable.js', picker },
]

let demo: ChildProcess
let url = ''

beforeAll(async () => {
  writeFileSync(path, film.content)
  mkdirSync(screenshots, { recursive: true })
  demo = spawn(process.execPath, ['--import', 'tsx', 'scripts/demo.ts', '--page'], {
    cwd: root,
    env: { ...process.env, TMPDIR: folder.path, PORT: '' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  demo.stdout?.on('data', (text) => {
    output += text
    url = /Try it in a browser: (\S+)/.exec(output)?.[1] ?? ''
  })
  await until(() => url !== '', 'the page')
})

afterAll(async () => {
  const ended = once(demo, 'exit')
  demo.kill('SIGINT')
  await ended
  await folder.remove()
})

type Scheme = 'light' | 'dark'

async function open(scheme: Scheme = 'light', width = 1280): Promise<Page> {
  const browser = await launchBrowser()
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width, height: 900 } })
  const page = await context.newPage()
  page.on('pageerror', (error) => {
    throw error
  })
  // From the start: it takes a moment until the browser hands its dialogs over.
  page.on('filechooser', () => {})
  await page.goto(url)
  await page.getByText('Connected').waitFor()
  await setSpeed(page, usual)
  return page
}

/** So that what a test does next is done before the upload is over, also on a busy machine. */
const slow = '1 MB/s'
const usual = '5 MB/s'

async function setSpeed(page: Page, speed: string): Promise<void> {
  await page.getByLabel('Speed').selectOption(speed)
}

async function choose(page: Page, { label, picker }: Choice): Promise<void> {
  await page.getByLabel(label).check()
  await page.locator(picker).first().setInputFiles(path)
}

const rowOf = (page: Page) => page.locator('.upload').first()
const stateOf = (page: Page) => rowOf(page).getAttribute('data-state')
const shareOf = async (page: Page) => Number(await rowOf(page).getByRole('progressbar').getAttribute('value'))

/** The id of the upload server's process. */
async function processOf(page: Page): Promise<number> {
  return Number(/\d+/.exec((await page.getByText(/^Process \d+$/).textContent()) ?? '')?.[0])
}

const identical = (page: Page) => page.locator('.upload[data-state=identical]').count()

async function reaches(page: Page, state: string): Promise<void> {
  await until(async () => (await stateOf(page)) === state, `the state ${state}`, 60_000)
}

async function isPast(page: Page, share: number, timeout?: number): Promise<void> {
  await until(async () => (await shareOf(page)) > share, `${share * 100} %`, timeout)
}

async function look(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true })
}

describe.each(choices)('the page with $label', (choice) => {
  it('shows how an upload survives the cut and the kill, and that the file is identical', async () => {
    const page = await open()
    await setSpeed(page, slow)
    await choose(page, choice)
    await isPast(page, 0.05)
    await page.getByRole('button', { name: 'Cut the network' }).click()
    await reaches(page, 'interrupted')
    await page.getByText('The network is cut.').waitFor()
    await reaches(page, 'uploading')
    await setSpeed(page, usual)
    await isPast(page, 0.3)
    await setSpeed(page, slow)
    const pid = await processOf(page)
    await page.getByRole('button', { name: 'Kill the server' }).click()
    await reaches(page, 'interrupted')
    await page.getByText('The server is dead.').waitFor()
    await look(page, `${choice.label} - interrupted`)
    await setSpeed(page, usual)
    await reaches(page, 'identical')
    expect(() => process.kill(pid, 0), `process ${pid} is dead`).toThrow('ESRCH')
    expect(await processOf(page)).not.toBe(pid)
    const row = rowOf(page)
    expect(await row.getByText(sha256(film.content)).count()).toBe(2)
    expect(await page.getByRole('log').textContent()).toMatch(/killed with SIGKILL.*The network is back/)
    const link = await row.getByRole('link', { name: `Download ${film.name}` }).getAttribute('href')
    const stored = await fetch(link ?? '')
    expect(sha256(Buffer.from(await stored.arrayBuffer()))).toBe(sha256(film.content))
    await look(page, `${choice.label} - identical`)
    await page.context().close()
  })

  it('pauses, resumes, and gives up', async () => {
    const page = await open()
    await setSpeed(page, slow)
    await choose(page, choice)
    await isPast(page, 0.05)
    await page.getByRole('button', { name: `Pause ${film.name}` }).click()
    await reaches(page, 'paused')
    const share = await shareOf(page)
    await page.waitForTimeout(1_500)
    // What was in the air when the button was pressed may still be told.
    expect(await shareOf(page)).toBeLessThan(share + 0.15)
    await page.getByRole('button', { name: `Resume ${film.name}` }).click()
    await reaches(page, 'uploading')
    await isPast(page, share)
    await page.getByRole('button', { name: `Cancel ${film.name}` }).click()
    await until(async () => (await page.locator('.upload').count()) === 0, 'the row to go')
    await page.context().close()
  })
})

describe('the page', () => {
  it('knows after a reload what was not finished, and goes on when the file is chosen again', async () => {
    const page = await open()
    const [choice] = choices as [Choice]
    await choose(page, choice)
    await isPast(page, 0.4)
    await page.reload()
    await setSpeed(page, slow)
    await page.getByText('Choose the same file again, and it goes on where it was.').waitFor()
    await look(page, 'reloaded')
    const chooser = page.waitForEvent('filechooser')
    await page.getByRole('button', { name: `Choose the file ${film.name}` }).click()
    await (await chooser).setFiles(path)
    // From the start it would take fifteen seconds to come so far.
    await isPast(page, 0.3, 12_000)
    await setSpeed(page, 'as fast as it goes')
    await reaches(page, 'identical')
    expect(await page.locator('.upload').count()).toBe(1)
    await page.context().close()
  })

  it('can be used with the keyboard alone', async () => {
    const page = await open()
    await setSpeed(page, slow)
    const focused = () => page.evaluate('document.activeElement.textContent || document.activeElement.id')
    await page.keyboard.press('Tab')
    await page.keyboard.press('ArrowRight')
    expect(await page.getByLabel('Uppy with tus').isChecked()).toBe(true)
    await page.keyboard.press('ArrowLeft')
    expect(await page.getByLabel('Our own client').isChecked()).toBe(true)
    await page.keyboard.press('Tab')
    expect(await focused()).toBe('picker')
    const chooser = page.waitForEvent('filechooser')
    await page.keyboard.press('Space')
    await (await chooser).setFiles(path)
    await isPast(page, 0.05)
    await page.getByRole('button', { name: `Pause ${film.name}` }).focus()
    await page.keyboard.press('Enter')
    await reaches(page, 'paused')
    // The button keeps the focus when it becomes another one.
    expect(await focused()).toBe('Resume')
    await page.keyboard.press('Enter')
    await reaches(page, 'uploading')
    await page.keyboard.press('Tab')
    expect(await focused()).toBe('Cancel')
    await page.keyboard.press('Enter')
    await until(async () => (await page.locator('.upload').count()) === 0, 'the row to go')
    expect(await focused()).toBe('Uploads')
    await page.context().close()
  })

  it.each<[Scheme, number]>([
    ['light', 1280],
    ['dark', 1280],
    ['light', 360],
    ['dark', 360],
  ])('fits %s at %i pixels', async (scheme, width) => {
    const page = await open(scheme, width)
    await look(page, `empty, ${scheme}, ${width}`)
    await setSpeed(page, 'as fast as it goes')
    for (const choice of choices) await choose(page, choice)
    await until(async () => (await identical(page)) === choices.length, 'all files')
    await look(page, `full, ${scheme}, ${width}`)
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width)
    await page.context().close()
  })
})
